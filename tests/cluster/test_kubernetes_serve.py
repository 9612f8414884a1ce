"""The Serve applications in the Kubernetes manifests, read as Ray's dashboard reads what KubeRay sends it."""

from pathlib import Path

import pytest
import yaml

from gateway.tools.samples import bundles_directory
from serving.bundles.catalog import find_bundles

OVERLAY = Path(__file__).resolve().parent.parent.parent / "ops/deploy/kubernetes/overlays/ray"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, at its import
def test_ray_takes_the_applications_of_the_ray_service():
    from ray.serve.schema import ServeDeploySchema

    patch = yaml.safe_load((OVERLAY / "serve-config.yaml").read_text())
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(patch["spec"]["serveConfigV2"]))
    bundles = find_bundles(bundles_directory())
    assert [each.name for each in deploy.applications] == [f"stockade-{at.parent.name}-{at.name}" for at in bundles]
    for application in deploy.applications:
        assert application.route_prefix is None
        assert application.import_path == "serving.engines.ray.replica:build"
        assert application.deployments[0].name == "model"

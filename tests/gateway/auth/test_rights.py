from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.errors import IdentityRejected
from gateway.auth.rights import ANY, Grant, Rights
from gateway.errors import MethodForbidden
from tests.gateway.auth.issuer import KIOSK

PRINCIPAL = KIOSK.through("api_key", "a", None)
ROLES = {
    "predictor": [Grant(("ModelInfer", "ModelReady"), ("kiosk",)), Grant(("ServerLive",))],
    "canary": [Grant(("ModelInfer",), ("kiosk", "shelf"), ("2",)), Grant(("ModelInfer",), (ANY,), ("9",))],
    "operator": [Grant((ANY,), (ANY,))],
    "reader": [Grant((ANY,), ("shelf",), ("1",))],
}


def rights(*roles):
    return Rights(ROLES, {"kiosk-7": frozenset(roles)})


@pytest.mark.parametrize(
    ("roles", "method", "allowed"),
    [
        (("predictor",), "ModelInfer", True),
        (("predictor",), "ServerLive", True),
        (("predictor",), "RepositoryIndex", False),
        (("predictor",), "modelinfer", False),
        (("predictor",), "", False),
        (("operator",), "RepositoryIndex", True),
        (("canary", "predictor"), "ModelReady", True),
        ((), "ServerLive", False),
    ],
)
def test_methods(roles, method, allowed):
    table = rights(*roles)
    assert table.may_call(PRINCIPAL, method) is allowed
    if allowed:
        table.require_method(PRINCIPAL, method)
    else:
        with pytest.raises(MethodForbidden):
            table.require_method(PRINCIPAL, method)


@pytest.mark.parametrize(
    ("roles", "method", "model", "version", "allowed"),
    [
        (("predictor",), "ModelInfer", "kiosk", "1", True),
        (("predictor",), "ModelInfer", "shelf", "1", False),
        (("predictor",), "ServerLive", "kiosk", "1", False),
        (("predictor",), "ModelStatistics", "kiosk", "1", False),
        (("canary",), "ModelInfer", "kiosk", "1", False),
        (("canary",), "ModelInfer", "kiosk", "2", True),
        (("canary",), "ModelInfer", "kiosk", "9", True),
        (("canary",), "ModelInfer", "new", "9", True),
        (("canary",), "ModelInfer", "new", "2", False),
        (("canary", "predictor"), "ModelInfer", "kiosk", "7", True),
        (("canary", "predictor"), "ModelInfer", "shelf", "7", False),
        (("operator",), "Anything", "any", "", True),
        (("reader", "predictor"), "ModelInfer", "shelf", "1", True),
        (("reader", "predictor"), "ModelStatistics", "shelf", "1", True),
        (("reader", "predictor"), "ModelStatistics", "kiosk", "1", False),
        (("canary",), "ModelInfer", "kiosk", "", False),
        (("canary",), "ModelInfer", "kiosk", ANY, False),
    ],
)
def test_models(roles, method, model, version, allowed):
    table = rights(*roles)
    assert table.may_use(PRINCIPAL, method, model, version) is allowed


def test_a_principal_that_the_table_does_not_know_has_no_rights():
    stranger = replace(PRINCIPAL, name="stranger", roles=frozenset({"operator"}))
    assert not rights("operator").may_call(stranger, "ServerLive")
    assert not rights("operator").may_use(stranger, "ModelInfer", "kiosk", "1")


@pytest.mark.parametrize(
    "grant",
    [
        Grant(("Model*",), ("kiosk",)),
        Grant(("ModelInfer",), ("kiosk-*",)),
        Grant(("ModelInfer",), ("kiosk",), ("1.*",)),
        Grant(("",)),
        Grant(("ModelInfer",), ("",)),
    ],
)
def test_patterns_other_than_the_star_are_refused(grant):
    with pytest.raises(IdentityRejected):
        Rights({"role": [grant]}, {})


def test_a_role_that_does_not_exist_is_refused():
    with pytest.raises(IdentityRejected, match="ghost"):
        Rights(ROLES, {"kiosk-7": frozenset({"predictor", "ghost"})})


def test_principals_with_the_same_roles_share_a_table():
    many = Rights(ROLES, {f"p{number}": frozenset({"predictor", "canary"}) for number in range(1000)})
    assert len({id(table) for table in many._tables.values()}) == 1


NAMES = st.sampled_from(["a", "b", "c", ANY])
GRANTS = st.builds(
    Grant,
    st.lists(NAMES, min_size=1, max_size=2).map(tuple),
    st.lists(NAMES, max_size=2).map(tuple),
    st.lists(NAMES, min_size=1, max_size=2).map(tuple),
)
ASKED = st.sampled_from(["a", "b", "c", "new"])


@given(st.dictionaries(st.sampled_from(["r1", "r2"]), st.lists(GRANTS, max_size=3)), ASKED, ASKED, ASKED)
def test_the_compiled_table_equals_reading_the_grants_one_by_one(roles, method, model, version):
    table = Rights(roles, {"kiosk-7": frozenset(roles)})
    grants = [grant for given_grants in roles.values() for grant in given_grants if {method, ANY} & set(grant.methods)]
    allowed = any({model, ANY} & set(grant.models) and {version, ANY} & set(grant.versions) for grant in grants)
    assert table.may_call(PRINCIPAL, method) is bool(grants)
    assert table.may_use(PRINCIPAL, method, model, version) is allowed

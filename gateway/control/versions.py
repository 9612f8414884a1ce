"""Model versions of a host: into and out of service for all workers or none, and on the record with their proofs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gateway.control.promotions import Judged, proof_entry, unproven_entry
from serving.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gateway.control.desk import Fleet
    from gateway.control.repository import Asked
    from gateway.models.model_set import Key, Listed
    from serving.registry.proof import Proof, Unproven


async def change(asked: Asked, fleet: Fleet) -> dict[str, Any]:
    """Put versions of a model into or out of service, everywhere or nowhere. Returns what the worker is told."""
    repository = fleet.repository
    async with fleet.reloading:
        if asked.model not in fleet.policy.models:
            return {"outcome": "unknown"}
        try:
            found = await asyncio.to_thread(repository.new_ones, asked.model, asked.version) if asked.loads else {}
        except (ServingError, OSError) as problem:
            return refused(asked, str(problem), fleet)
        meant = [listed for listed in repository.having(found).listed if fleet.permits(asked, listed)]
        if not meant:
            return {"outcome": "unknown"}
        keys = frozenset(listed.key for listed in meant)
        found = {at: bundle for at, bundle in found.items() if (bundle.name, bundle.version) in keys}
        before = repository.models
        unloaded = before.unloaded - keys if asked.loads else before.unloaded | keys
        models = repository.having(found, unloaded)
        if models != before:
            coming = [listed for action, listed in models.changes(before) if action == "loaded"]
            judged = await asyncio.to_thread(repository.judge, fleet.policy, coming)
            if judged.unproven:
                await tell_rejected(fleet, judged.unproven.values(), asked.request)
                return refused(asked, "; ".join(each.sentence for _, each in judged.unproven.values()), fleet)
            refusal = await fleet.bring(fleet.policy, fleet.kept.copy, models, lambda: repository.keep(models, found))
            if refusal is not None:
                return refused(asked, refusal, fleet)
            await fleet.models_changed(before, asked.request)
            await tell_promoted(fleet, {**repository.judged.proofs, **judged.proofs}, asked.request)
    return {"outcome": "done", "version": meant[0].version}


def refused(asked: Asked, problem: str, fleet: Fleet) -> dict[str, Any]:
    """Write down why it was not done; whoever asked learns only that."""
    facts = {"model": asked.model, "version": asked.version or None, "request_id": asked.request, "problem": problem}
    fleet.log(f"model-not-{asked.action}ed", level="error", **facts)
    return {"outcome": "failed"}


async def tell_promoted(
    fleet: Fleet, proofs: Mapping[Key, Proof], request: str = "", *, named: Collection[Key] = ()
) -> None:
    """Remember which versions are proven; log and record those that are newly so, or by another proof.

    Those that the policy has just `named` are news as well.
    """
    repository = fleet.repository
    known, repository.judged = repository.judged.proofs, Judged(proofs)
    for listed in repository.models.listed:
        proof = proofs.get(listed.key)
        if proof is None or (known.get(listed.key) == proof and listed.key not in named):
            continue
        facts = {"model": listed.name, "version": listed.version, "approvers": list(proof.approvers)}
        loud = bool(proof.override or proof.ignored)
        fleet.log("model-promoted", level="warning" if loud else "info", **facts, override=proof.override or None)
        for problem in proof.ignored:
            fleet.log("approval-ignored", level="warning", **facts, problem=problem)
        if fleet.control is not None:
            await fleet.control.model_judged(proof_entry(listed, proof), request)


async def tell_rejected(fleet: Fleet, found: Iterable[tuple[Listed, Unproven]], request: str = "") -> None:
    """Log and record which versions lack proof, and why."""
    for listed, unproven in found:
        facts = {"model": listed.name, "version": listed.version, "problem": unproven.sentence}
        fleet.log("model-rejected", level="error", request_id=request or None, **facts)
        if fleet.control is not None:
            await fleet.control.model_judged(unproven_entry(listed, unproven), request)

"""Experts: what one is, how it lies on disk, how it is made, and PEFT folders in and out."""

from collegium.experts.average import average_experts, average_whole, parents_of
from collegium.experts.conversion import convert_peft, foreign_kind
from collegium.experts.fit import Origin, Trained, fit_documents, fit_domain, fit_expert, fit_union
from collegium.experts.folder import check_base, check_expert, is_peft_folder, load_expert, read_card, save_expert
from collegium.experts.joint_fit import JointFit, JointTraining, fit_dense, fit_joint
from collegium.experts.payloads import AdapterPayload, Expert, MtaPayload, WholePayload, adapter_payload, payload_digest
from collegium.experts.peft_folder import read_peft, write_peft
from collegium.experts.recipe import FitConfig, resolve
from collegium.experts.trunk_cache import TrunkNotCached
from collegium.experts.whole import load_model, open_whole
from collegium.experts.whole_fit import fit_whole, fit_whole_documents
from collegium.experts.workers import Branch, Executor, Keep, Outcome, Progress, Task, fit_experts, run_tasks

__all__ = [
    "AdapterPayload",
    "Branch",
    "Executor",
    "Expert",
    "FitConfig",
    "JointFit",
    "JointTraining",
    "Keep",
    "MtaPayload",
    "Origin",
    "Outcome",
    "Progress",
    "Task",
    "Trained",
    "TrunkNotCached",
    "WholePayload",
    "adapter_payload",
    "average_experts",
    "average_whole",
    "check_base",
    "check_expert",
    "convert_peft",
    "fit_dense",
    "fit_documents",
    "fit_domain",
    "fit_expert",
    "fit_experts",
    "fit_joint",
    "fit_union",
    "fit_whole",
    "fit_whole_documents",
    "foreign_kind",
    "is_peft_folder",
    "load_expert",
    "load_model",
    "open_whole",
    "parents_of",
    "payload_digest",
    "read_card",
    "read_peft",
    "resolve",
    "run_tasks",
    "save_expert",
    "write_peft",
]

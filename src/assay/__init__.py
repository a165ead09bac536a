"""assay tells what every training example is worth.

Record a training run once, score it with every method, choose what to keep, verify by retraining, report on one page.
Names are loaded when first used, so that importing assay (and `assay --help`) costs no import of torch.
"""

__version__ = "0.1.0"

_HOMES = {
    "record": "integrations.pytorch",
    "attach": "integrations.huggingface",
    "huggingface": "integrations",
    "lightning": "integrations",
    "skorch": "integrations",
    "Loop": "replay.loop",
    "token_losses": "replay.losses",
    "ReplayConfig": "replay.config",
    "LiveMethods": "replay.live_methods",
    "score": "experiments.score",
    "score_separately": "experiments.score",
    "count_wrong": "experiments.wrong_labels",
    "compare": "experiments.compare",
    "combine": "experiments.compare",
    "MethodComparison": "core.method_comparison",
    "probe": "experiments.probe",
    "Flips": "experiments.probe",
    "Probe": "core.probe",
    "load_probe": "runs.artefacts",
    "save_probe": "runs.artefacts",
    "WrongCount": "core.wrong_labels",
    "Execution": "experiments.execution",
    "attribute": "experiments.attribute",
    "explain": "experiments.explain",
    "load_explanation": "runs.artefacts",
    "save_explanation": "runs.artefacts",
    "load_attribution": "runs.attributions",
    "choose": "experiments.choose",
    "verify": "experiments.verify",
    "Seeds": "experiments.verify",
    "seeds_needed": "experiments.power",
    "estimate_games": "experiments.game_costs",
    "estimate_recording": "experiments.estimate",
    "estimate_retraining": "experiments.estimate",
    "estimate_study": "studies.costs",
    "cleanse": "experiments.cleanse",
    "curve_for": "experiments.cleanse",
    "RemovalGrid": "experiments.cleanse",
    "lds": "experiments.lds",
    "LeaveOutGrid": "experiments.lds",
    "study_scaling": "studies.scaling",
    "study_difficulty": "studies.difficulty",
    "study_cleansing": "studies.cleansing",
    "study_fidelity": "studies.fidelity",
    "study_complexity_gap": "studies.complexity_gap",
    "study_liveval": "studies.liveval",
    "study_coresets": "studies.coresets",
    "study_pruning": "studies.pruning",
    "ScalingGrid": "studies.scaling",
    "DifficultyGrid": "studies.difficulty",
    "CleansingGrid": "studies.cleansing",
    "FidelityGrid": "studies.fidelity",
    "ComplexityGapGrid": "studies.complexity_gap",
    "LiveValGrid": "studies.liveval",
    "CoresetsGrid": "studies.coresets",
    "PruningGrid": "studies.pruning",
    "load_study": "runs.artefacts",
    "report_data": "experiments.report_data",
    "ReportOptions": "experiments.report_data",
    "report": "experiments.report",
    "review": "experiments.review",
    "result_table": "experiments.exports",
    "issue_table": "experiments.exports",
    "fiftyone_fields": "experiments.exports",
    "label_studio_tasks": "experiments.exports",
    "dataset_card": "experiments.exports",
    "import_decision": "experiments.imports",
    "duplicates": "experiments.duplicates",
    "DuplicateGroups": "core.duplicates",
    "confident_joint": "experiments.confident",
    "ConfidentJoint": "core.confident",
    "examples_from_arrays": "data.arrays",
    "examples_from_dataset": "data.torch_dataset",
    "Plan": "experiments.plan",
    "Run": "runs.run",
    "Recorder": "runs.recorder",
    "Recording": "runs.recording",
    "DataSpec": "integrations.data_spec",
    "LiveSelection": "integrations.selecting",
    "gather": "experiments.evidence",
    "gather_logits": "experiments.evidence",
    "gather_inputs": "experiments.evidence",
    "untrained": "experiments.record",
    "from_probs": "experiments.existing",
    "from_logits": "experiments.existing",
    "from_checkpoints": "integrations.saved_models",
    "load_scores": "runs.artefacts",
    "save_scores": "runs.artefacts",
    "load_decision": "runs.artefacts",
    "save_decision": "runs.artefacts",
    "load_verdict": "runs.artefacts",
    "save_verdict": "runs.artefacts",
    "load_curve": "runs.artefacts",
    "save_curve": "runs.artefacts",
    "load_lds": "runs.artefacts",
    "save_lds": "runs.artefacts",
    "Ids": "core.ids",
    "Attribution": "core.attribution",
    "Scores": "core.scores",
    "ScoreTable": "core.scores",
    "Table": "core.tabular",
    "Direction": "core.scores",
    "Decision": "core.decision",
    "Verdict": "core.trial",
    "Curve": "core.curve",
    "LDS": "core.lds",
    "Explanation": "core.explanation",
    "Evidence": "core.evidence",
    "ReplayedFacts": "core.evidence",
    "Need": "core.needs",
    "AssayError": "core.errors",
}

_RENAMED = {"score_apart": "score_separately", "Replaying": "ReplayConfig"}

_MODULES = ("sklearn",)
"""Public modules; not in `__all__`, where they would hide the libraries that they are named after."""

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str):
    if name in _RENAMED:
        raise AttributeError(f"assay.{name} is now assay.{_RENAMED[name]}.")
    import importlib

    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

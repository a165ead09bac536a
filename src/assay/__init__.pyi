# What type checkers and editors read in place of __init__.py, whose names are loaded when first used.
from . import sklearn as sklearn
from .core.attribution import Attribution as Attribution
from .core.confident import ConfidentJoint as ConfidentJoint
from .core.curve import Curve as Curve
from .core.decision import Decision as Decision
from .core.duplicates import DuplicateGroups as DuplicateGroups
from .core.errors import AssayError as AssayError
from .core.evidence import Evidence as Evidence
from .core.evidence import ReplayedFacts as ReplayedFacts
from .core.explanation import Explanation as Explanation
from .core.ids import Ids as Ids
from .core.lds import LDS as LDS
from .core.method_comparison import MethodComparison as MethodComparison
from .core.needs import Need as Need
from .core.probe import Probe as Probe
from .core.scores import Direction as Direction
from .core.scores import Scores as Scores
from .core.scores import ScoreTable as ScoreTable
from .core.tabular import Table as Table
from .core.trial import Verdict as Verdict
from .core.wrong_labels import WrongCount as WrongCount
from .data.arrays import examples_from_arrays as examples_from_arrays
from .data.torch_dataset import examples_from_dataset as examples_from_dataset
from .experiments.attribute import attribute as attribute
from .experiments.choose import choose as choose
from .experiments.cleanse import RemovalGrid as RemovalGrid
from .experiments.cleanse import cleanse as cleanse
from .experiments.cleanse import curve_for as curve_for
from .experiments.compare import combine as combine
from .experiments.compare import compare as compare
from .experiments.confident import confident_joint as confident_joint
from .experiments.duplicates import duplicates as duplicates
from .experiments.estimate import estimate_recording as estimate_recording
from .experiments.estimate import estimate_retraining as estimate_retraining
from .experiments.evidence import gather as gather
from .experiments.evidence import gather_inputs as gather_inputs
from .experiments.evidence import gather_logits as gather_logits
from .experiments.execution import Execution as Execution
from .experiments.existing import from_logits as from_logits
from .experiments.existing import from_probs as from_probs
from .experiments.explain import explain as explain
from .experiments.exports import dataset_card as dataset_card
from .experiments.exports import fiftyone_fields as fiftyone_fields
from .experiments.exports import issue_table as issue_table
from .experiments.exports import label_studio_tasks as label_studio_tasks
from .experiments.exports import result_table as result_table
from .experiments.game_costs import estimate_games as estimate_games
from .experiments.imports import import_decision as import_decision
from .experiments.lds import LeaveOutGrid as LeaveOutGrid
from .experiments.lds import lds as lds
from .experiments.plan import Plan as Plan
from .experiments.power import seeds_needed as seeds_needed
from .experiments.probe import Flips as Flips
from .experiments.probe import probe as probe
from .experiments.record import untrained as untrained
from .experiments.report import report as report
from .experiments.report_data import ReportOptions as ReportOptions
from .experiments.report_data import report_data as report_data
from .experiments.review import review as review
from .experiments.score import score as score
from .experiments.score import score_separately as score_separately
from .experiments.verify import Seeds as Seeds
from .experiments.verify import verify as verify
from .experiments.wrong_labels import count_wrong as count_wrong
from .integrations import huggingface as huggingface
from .integrations import lightning as lightning
from .integrations import skorch as skorch
from .integrations.data_spec import DataSpec as DataSpec
from .integrations.huggingface import attach as attach
from .integrations.pytorch import record as record
from .integrations.saved_models import from_checkpoints as from_checkpoints
from .integrations.selecting import LiveSelection as LiveSelection
from .replay.config import ReplayConfig as ReplayConfig
from .replay.live_methods import LiveMethods as LiveMethods
from .replay.loop import Loop as Loop
from .replay.losses import token_losses as token_losses
from .runs.artefacts import load_curve as load_curve
from .runs.artefacts import load_decision as load_decision
from .runs.artefacts import load_explanation as load_explanation
from .runs.artefacts import load_lds as load_lds
from .runs.artefacts import load_probe as load_probe
from .runs.artefacts import load_scores as load_scores
from .runs.artefacts import load_study as load_study
from .runs.artefacts import load_verdict as load_verdict
from .runs.artefacts import save_curve as save_curve
from .runs.artefacts import save_decision as save_decision
from .runs.artefacts import save_explanation as save_explanation
from .runs.artefacts import save_lds as save_lds
from .runs.artefacts import save_probe as save_probe
from .runs.artefacts import save_scores as save_scores
from .runs.artefacts import save_verdict as save_verdict
from .runs.attributions import load_attribution as load_attribution
from .runs.recorder import Recorder as Recorder
from .runs.recording import Recording as Recording
from .runs.run import Run as Run
from .studies.cleansing import CleansingGrid as CleansingGrid
from .studies.cleansing import study_cleansing as study_cleansing
from .studies.complexity_gap import ComplexityGapGrid as ComplexityGapGrid
from .studies.complexity_gap import study_complexity_gap as study_complexity_gap
from .studies.coresets import CoresetsGrid as CoresetsGrid
from .studies.coresets import study_coresets as study_coresets
from .studies.costs import estimate_study as estimate_study
from .studies.difficulty import DifficultyGrid as DifficultyGrid
from .studies.difficulty import study_difficulty as study_difficulty
from .studies.fidelity import FidelityGrid as FidelityGrid
from .studies.fidelity import study_fidelity as study_fidelity
from .studies.liveval import LiveValGrid as LiveValGrid
from .studies.liveval import study_liveval as study_liveval
from .studies.pruning import PruningGrid as PruningGrid
from .studies.pruning import study_pruning as study_pruning
from .studies.scaling import ScalingGrid as ScalingGrid
from .studies.scaling import study_scaling as study_scaling

__version__: str

__all__ = [
    "LDS",
    "AssayError",
    "Attribution",
    "CleansingGrid",
    "ComplexityGapGrid",
    "ConfidentJoint",
    "CoresetsGrid",
    "Curve",
    "DataSpec",
    "Decision",
    "DifficultyGrid",
    "Direction",
    "DuplicateGroups",
    "Evidence",
    "Execution",
    "Explanation",
    "FidelityGrid",
    "Flips",
    "Ids",
    "LeaveOutGrid",
    "LiveMethods",
    "LiveSelection",
    "LiveValGrid",
    "Loop",
    "MethodComparison",
    "Need",
    "Plan",
    "Probe",
    "PruningGrid",
    "Recorder",
    "Recording",
    "RemovalGrid",
    "ReplayConfig",
    "ReplayedFacts",
    "ReportOptions",
    "Run",
    "ScalingGrid",
    "ScoreTable",
    "Scores",
    "Seeds",
    "Table",
    "Verdict",
    "WrongCount",
    "__version__",
    "attach",
    "attribute",
    "choose",
    "cleanse",
    "combine",
    "compare",
    "confident_joint",
    "count_wrong",
    "curve_for",
    "dataset_card",
    "duplicates",
    "estimate_games",
    "estimate_recording",
    "estimate_retraining",
    "estimate_study",
    "examples_from_arrays",
    "examples_from_dataset",
    "explain",
    "fiftyone_fields",
    "from_checkpoints",
    "from_logits",
    "from_probs",
    "gather",
    "gather_inputs",
    "gather_logits",
    "huggingface",
    "import_decision",
    "issue_table",
    "label_studio_tasks",
    "lds",
    "lightning",
    "load_attribution",
    "load_curve",
    "load_decision",
    "load_explanation",
    "load_lds",
    "load_probe",
    "load_scores",
    "load_study",
    "load_verdict",
    "probe",
    "record",
    "report",
    "report_data",
    "result_table",
    "review",
    "save_curve",
    "save_decision",
    "save_explanation",
    "save_lds",
    "save_probe",
    "save_scores",
    "save_verdict",
    "score",
    "score_separately",
    "seeds_needed",
    "skorch",
    "study_cleansing",
    "study_complexity_gap",
    "study_coresets",
    "study_difficulty",
    "study_fidelity",
    "study_liveval",
    "study_pruning",
    "study_scaling",
    "token_losses",
    "untrained",
    "verify",
]

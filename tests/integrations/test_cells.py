"""The table of trainers and features in docs/integrations.md: which tests are behind each of its cells, and that every cell has one that is there."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DOORS = {
    "HF `attach`": "assay.attach",
    "HF callback": "assay.huggingface.Recorder",
    "Lightning": "assay.lightning.Recorder",
    "skorch": "assay.skorch.Recorder",
    "accelerate": "accelerate.Accelerator",
}
"""By column, what a test of it uses."""
FACTS = "test_facts_and_weights_are_those_of_a_plain_loop"
ALONE = "test_without_a_seed_training_ends_as_if_nobody_recorded"
RESUMED = "test_a_resumed_training_goes_on_with_its_run"
SAVED = "test_a_run_is_gone_on_with_from_the_checkpoint_of"
CALLED = "test_huggingface::test_the_callback_records_what_attach_records"
TAKEN = "test_methods_that_take_the_training_again"
ANEW = "test_huggingface::test_what_the_callback_recorded_is_taken_again_by_a_trainer_that_is_built_anew"
LIVE = "test_live_values_and_the_clean_pass_are_those_of_a_plain_loop"
REPLAYED = "test_live_values_of_accumulated_steps_are_those_of_a_replay"
PREPARED = "test_accelerate::test_live_values_are_those_of_a_plain_loop_and_accumulated_ones_those_of_a_replay"
TOKENS = "test_trainer_tasks::test_losses_of_tokens_and_numbers_are_recorded_and_their_training_taken_again"
LABELS = "test_trainer_tasks::test_several_labels_are_recorded_label_by_label"
OWN = "test_trainer_tasks::test_losses_of_ones_own_are_read_from_what_the_training_step_returned"
TOGETHER = "test_trainers_together::test_a_trainer_in_two_processes_records_one_run"
PARTS = "test_parts_in_trainers::test_huggingfaces_trainer_keeps_parts"
CELLS: dict[str, dict[str, list[str]]] = {
    "ids, facts to the bit": {
        "HF `attach`": [f"test_huggingface::{FACTS}"],
        "HF callback": [CALLED],
        "Lightning": [f"test_lightning::{FACTS}"],
        "skorch": [f"test_skorch::{FACTS}", "test_skorch::test_ids_are_rows_of_x_also_behind_a_split"],
        "accelerate": ["test_accelerate::test_a_loader_prepared_or_not_is_recorded_as_it_was_iterated"],
    },
    "same weights as unrecorded": {
        "HF `attach`": [f"test_huggingface::{ALONE}[attach]"],
        "HF callback": [f"test_huggingface::{ALONE}[callback]"],
        "Lightning": [f"test_lightning::{ALONE}"],
        "skorch": [f"test_skorch::{ALONE}"],
        "accelerate": [f"test_accelerate::{ALONE}"],
    },
    "resume": {
        "HF `attach`": [f"test_huggingface::{RESUMED}[attach]"],
        "HF callback": [f"test_huggingface::{RESUMED}[callback]"],
        "Lightning": [f"test_lightning::{RESUMED}"],
        "skorch": [
            *(f"test_skorch::{SAVED}_skorch[{way}]" for way in ("LoadInitState", "load_params", "partial_fit")),
            "test_skorch::test_a_run_is_gone_on_with",
        ],
        "accelerate": [f"test_accelerate::{RESUMED}", f"test_accelerate::{SAVED}_accelerate"],
    },
    "accumulated gradients": {
        "HF `attach`": [f"test_huggingface::{FACTS}[accumulation]"],
        "HF callback": [f"{CALLED}[accumulation]"],
        "Lightning": [f"test_lightning::{FACTS}[accumulation]"],
        "accelerate": ["test_accelerate::test_a_loader_prepared_or_not_is_recorded_as_it_was_iterated[3]"],
    },
    "numbers, tokens, several labels": {
        "HF `attach`": [TOKENS, LABELS, f"{OWN}[attach]"],
        "HF callback": [TOKENS, LABELS, f"{OWN}[callback]"],
        "Lightning": [
            "test_lightning::test_losses_of_the_examples_are_recorded_and_their_training_taken_again_with_accumulation",
            "test_lightning::test_losses_of_tokens_are_those_of_a_plain_loop",
            "test_lightning::test_several_labels_for_each_example",
        ],
        "skorch": [
            "test_skorch::test_losses_of_numbers_are_those_of_a_plain_loop_and_taken_again",
            "test_skorch::test_losses_of_tokens_are_those_of_a_plain_loop",
            "test_skorch::test_several_labels_for_each_example",
        ],
        "accelerate": ["test_trainer_tasks::test_a_loop_of_accelerate_records_what_a_plain_one_does"],
    },
    "bf16": {
        "HF `attach`": [f"test_huggingface::{FACTS}[bf16]"],
        "HF callback": [f"{CALLED}[bf16]"],
        "Lightning": [f"test_lightning::{FACTS}[bf16]"],
        "skorch": ["test_skorch::test_bf16_gives_the_facts_and_weights_of_a_plain_loop"],
        "accelerate": ["test_accelerate::test_workers_and_bf16_give_the_facts_and_weights_of_a_plain_loop[bf16]"],
    },
    "workers": {
        "HF `attach`": [f"test_huggingface::{FACTS}[workers]"],
        "HF callback": [f"{CALLED}[workers]"],
        "Lightning": [f"test_lightning::{FACTS}[data module and workers]"],
        "skorch": [f"test_skorch::{FACTS}[2]"],
        "accelerate": ["test_accelerate::test_workers_and_bf16_give_the_facts_and_weights_of_a_plain_loop[workers]"],
    },
    "live values": {
        "HF `attach`": [f"test_huggingface::{LIVE}[train]"],
        "HF callback": [f"test_huggingface::{LIVE}[train]"],
        "Lightning": ["test_lightning::test_live_values_are_those_of_a_plain_loop"],
        "skorch": [f"test_skorch::{FACTS}"],
        "accelerate": [PREPARED],
    },
    "live values, accumulated": {
        "HF `attach`": [f"test_huggingface::{REPLAYED}[attach]"],
        "HF callback": [f"test_huggingface::{REPLAYED}[callback]"],
        "Lightning": [f"test_lightning::{REPLAYED}"],
        "accelerate": [PREPARED],
    },
    'clean pass (`view="eval"`)': {
        "HF `attach`": [f"test_huggingface::{LIVE}[eval]"],
        "HF callback": [f"test_huggingface::{LIVE}[eval]"],
        "Lightning": ["test_lightning::test_the_clean_pass_with_batches_left_out_and_ids_of_a_subset"],
        "skorch": ["test_skorch::test_the_clean_pass_is_of_every_example_after_each_epoch"],
        "accelerate": ["test_accelerate::test_the_clean_pass_and_live_values"],
    },
    "training taken again (`sgd_influence`)": {
        "HF `attach`": [f"test_huggingface::{TAKEN}"],
        "HF callback": [f"{ANEW}[1]"],
        "Lightning": [f"test_lightning::{TAKEN}"],
        "skorch": [f"test_skorch::{TAKEN}"],
        "accelerate": [f"test_accelerate::{TAKEN}"],
    },
    "training taken again, accumulated": {
        "HF `attach`": ["test_trainer_tasks::test_accumulated_steps_are_taken_again_as_the_trainer_divides_them"],
        "HF callback": [f"{ANEW}[4]"],
        "Lightning": ["test_lightning::test_steps_of_several_batches_are_taken_again"],
        "accelerate": ["test_accelerate::test_accumulated_steps_are_taken_again_as_accelerate_divides_them"],
    },
    "several processes (DDP)": {
        "HF `attach`": [f"{TOGETHER}[by_attach]"],
        "HF callback": [f"{TOGETHER}[by_callback]"],
        "Lightning": ["test_lightning_together::test_two_processes_record_one_run_that_one_takes_again"],
        "accelerate": ["test_processes::test_accelerate_fills_up_batches"],
    },
    "several processes, parts of the model in each (`fully_shard`)": {
        "HF `attach`": [PARTS],
        "HF callback": [PARTS],
        "Lightning": ["test_parts_in_trainers::test_lightnings_model_parallel_strategy_keeps_parts"],
        "accelerate": ["test_parts_in_trainers::test_accelerate_keeps_parts"],
    },
}
"""By row and column, the tests as `file::function` or `file::function[parameters]`."""
NAMED = sorted({name for row in CELLS.values() for names in row.values() for name in names})


def cells_of(text):
    """Row and column of every cell of the table but those that say that there is nothing to test."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("| | newer | older |")]
    ]
    return {(row, column) for row, *cells in rows for column, cell in zip(head[1:], cells, strict=True) if "has none" not in cell}


def reached(tree, name):
    """The source of a function of a module, and of all at its top level that this names, again and again."""
    there = {}
    for node in tree.body:
        names = [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
        there |= dict.fromkeys([node.name] if hasattr(node, "name") else names, node)
    left, seen = [name], set()
    while left:
        seen.add(one := left.pop())
        names = {node.id for node in ast.walk(there[one]) if isinstance(node, ast.Name)}
        left += names & there.keys() - seen - set(left)
    return "\n".join(ast.unparse(there[one]) for one in seen)


def test_every_cell_of_the_table_has_its_tests_and_nothing_else_has():
    cells = cells_of((ROOT / "docs/integrations.md").read_text())
    assert {(row, column) for row, columns in CELLS.items() for column in columns} == cells
    assert all(names for columns in CELLS.values() for names in columns.values())


@pytest.mark.parametrize("row", CELLS)
def test_the_tests_of_a_cell_are_of_its_trainer(row):
    for column, names in CELLS[row].items():
        for name in names:
            file, function = name.partition("[")[0].split("::")
            tree = ast.parse((HERE / f"{file}.py").read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{name} is not there"
            source = reached(tree, function)
            assert DOORS[column] in source, f"{name} does not use {DOORS[column]}"


def test_the_tests_of_the_table_run_with_the_older_versions_too():
    files = re.search(r"tests/integrations/test_%\.py,([\w ]+)\)", (ROOT / "Makefile").read_text())[1].split()
    assert {name.split("::")[0].removeprefix("test_") for name in NAMED} - set(files) == set()


@pytest.mark.slow
def test_every_test_of_the_table_is_there_with_its_parameters():
    if missing := [one for one in ("transformers", "lightning", "skorch", "accelerate") if not importlib.util.find_spec(one)]:
        pytest.skip(f"{', '.join(missing)} not installed")
    files = sorted({HERE / f"{name.split('::')[0]}.py" for name in NAMED})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", *files]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    collected = set(re.findall(r"^tests/integrations/(\w+)\.py(::.+)$", said, re.MULTILINE))
    whole = {file + function for file, function in collected}
    assert [name for name in NAMED if name not in whole | {one.partition("[")[0] for one in whole}] == []

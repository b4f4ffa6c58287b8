"""What every test starts from: one thread, one seed, no downloads."""

import gc
import os

import pytest
import torch

# Set before any library that reads it is imported: the suite must not depend on a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # torch.manual_seed() writes down three tracebacks for devices that are not there: 1 ms a test.
    torch.default_generator.manual_seed(0)


# Files of the slow suite: each asks of whole networks what smaller tests ask of their parts.
SLOW_FILES = (
    "cli/test_folders.py",
    "networks/test_kinds.py",
    "networks/test_random_networks.py",
    "networks/test_timm_utilities.py",
    "recording/test_hooks.py",
    "splicing/test_switching.py",
    "test_ambient.py",
    "test_own_attention.py",
    "test_pictures.py",
    "test_published.py",
    "test_snippets.py",
    "training/test_new_heads.py",
)
# Of tests that take long in each of their cases, how many of these belong to the fast suite: the
# first ones, which fail alone if any does. The rest are slow.
FIRST = {
    "test_a_command_takes_the_file_once_and_the_folder_needs_it_no_more": 0,
    "test_a_folder_is_loaded": 3,
    "test_a_form_that_is_taken_has_every_number_and_says_what_was_done": 20,
    "test_a_map_without_any_variation_stays_finite": 8,
    "test_a_module_of_another_dtype_computes_in_it": 8,
    "test_a_network_with_an_autograd_function_keeps_its_outputs_and_its_gradients": 5,
    "test_a_pickled_network_of_other_arguments_is_refused_with_them": 1,
    "test_a_placement_is_narrowed": 5,
    "test_a_report_of_two_operations_names_both": 0,
    "test_a_shipped_rule_takes_and_leaves_what_its_tests_say": 12,
    "test_a_shipped_rule_that_was_changed_fails_its_tests": 2,
    "test_a_state_dict_carries_everything_that_was_learned": 8,
    "test_a_torchvision_name_of_any_task_builds_without_a_network": 1,
    "test_a_traced_module_still_changes_its_mode": 8,
    "test_an_adapter_is_loaded": 2,
    "test_an_export_that_computes_something_else_is_not_kept": 0,
    "test_an_exported_file_is_run": 1,
    "test_attention_acts_on_every_way": 2,
    "test_attention_at_skips_starts_as_nothing": 0,
    "test_attention_on_tokens_is_bit_equal_learns_and_is_saved": 2,
    "test_autocast_makes_the_dtype_that_was_there_and_stays_near": 8,
    "test_copies_are_equal_and_apart": 8,
    "test_each_placement_takes_what_the_data_says_in_the_networks_of_its_authors": 15,
    "test_every_mechanism_comes_back_bit_equal": 3,
    "test_every_other_convolution_is_replaced_size_for_size": 8,
    "test_every_parameter_of_a_start_as_identity_learns": 8,
    "test_every_table_fits_and_cuts_nothing": 3,
    "test_everything_but_the_head_is_taken": 1,
    "test_half_precision_does_not_overflow_on_large_values": 8,
    "test_importing_the_package_does_not_import_torch": 0,
    "test_it_is_operated_bit_equal_and_a_folder_remembers_the_input": 2,
    "test_macs_on_meta_are_fvcores_on_real_tensors_operator_by_operator": 3,
    "test_no_addition_is_lost_and_every_size_comes_out_as_before": 2,
    "test_no_hook_of_the_users_notices_an_operation": 2,
    "test_outputs_keys_and_copies_are_as_before": 6,
    "test_symbolic_tracing_gives_the_same_function_at_any_size": 8,
    "test_the_best_set_is_that_of_all_subsets": 5,
    "test_no_set_is_worth_more_for_less_than_one_of_the_front": 3,
    "test_every_kind_of_attention_is_measured_alone_on_what_it_is_given": 2,
    "test_the_meta_device_is_enough_to_plan": 8,
    "test_the_prices_of_sites_add_up_to_that_of_the_whole_whatever_goes_together": 1,
    "test_the_suggested_set_is_the_best_of_all_by_what_estimate_says_of_each": 2,
    "test_that_no_trained_weights_were_loaded_is_said_loudly": 0,
    "test_the_gradient_of_the_shifts_is_theirs": 1,
    "test_the_identity_start_costs_what_the_case_says_and_no_more": 12,
    "test_the_identity_is_a_convolution_of_any_form_to_the_bit": 12,
    "test_the_meta_network_has_the_same_keys_shapes_and_dtypes_and_no_numbers": 2,
    "test_the_page_and_the_card_of_a_folder_run_as_they_stand": 2,
    "test_the_python_of_a_page_runs_and_asserts_something": 3,
    "test_the_recipe_moves_what_is_new_and_then_everything": 0,
    "test_the_sites_of_a_family_are_those_that_people_name": 60,
    "test_training_copying_and_converting_alter_nothing": 3,
    "test_two_runs_agree_to_the_bit": 8,
    "test_weights_of_another_registered_network_are_answered_with_its_name": 0,
    "test_weights_that_were_trained_since_are_looked_at": 0,
    "test_weights_trained_since_are_verified_in_their_folder": 0,
    "test_weights_trained_since_go_into_a_fresh_copy_of_their_folder": 1,
    "test_what_is_printed_after_an_operation_runs_as_it_is_printed": 2,
    "test_what_needs_no_network_does_not_import_torch": 6,
}


# The same of the slow suite, and of these the rest is for the night.
FIRST_OF_SLOW = {
    "test_a_detector_detects_and_learns_as_before": 4,
    "test_a_paper_start_changes_the_outputs_and_comes_back_from_its_folder": 40,
    "test_a_video_resnet_computes_the_same_after_surgery": 23,
    "test_an_identity_start_changes_no_bit_and_keeps_every_key": 40,
    "test_every_parameter_of_a_start_as_identity_learns": 60,
    "test_gradients_reach_the_attention_under_checkpointing_too": 8,
    "test_killed_two_hundred_times_while_saving_there_is_the_old_or_the_new_and_nothing_left": 0,
    "test_many_random_networks": 1,
    "test_methods_and_copies_work_as_before": 8,
    "test_no_exported_graph_has_a_convolution_that_is_padded_by_a_word": 15,
    "test_outputs_are_bit_equal_with_every_mechanism": 12,
    "test_two_hundred_operations_in_eight_threads_equal_those_of_one": 0,
}


@pytest.hookimpl(tryfirst=True)  # before the expression of -m decides
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the files that are slow, and what the two tables leave of the cases of a test."""
    seen: dict[tuple[object, str], int] = {}
    for item in items:
        name = item.originalname if isinstance(item, pytest.Function) else ""
        if name in FIRST_OF_SLOW:
            at = item.path, f"{name} at night"
            seen[at] = seen.get(at, 0) + 1
            if seen[at] > FIRST_OF_SLOW[name]:
                item.add_marker(pytest.mark.nightly)
    for item in items:
        if item.path.as_posix().endswith(SLOW_FILES):
            item.add_marker(pytest.mark.slow)
        name = item.originalname if isinstance(item, pytest.Function) else ""
        if name in FIRST and item.get_closest_marker("slow") is None:
            at = item.path, name
            seen[at] = seen.get(at, 0) + 1
            if seen[at] > FIRST[name]:
                item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    gc.disable()  # while the tests are collected: their million objects all stay


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()

"""The faults F1-F20: what is done to a real run, by which tests, and which of them are negative controls.

Names are those of pytest, below tests/; without a name of a test a file is meant as a whole. What a test has to tell it
records as properties (pytest's ``record_property``): ``tried`` and ``survived``, where it does a fault more than once,
and figures. Those of a control begin with ``control.``: what is lost where our mechanism is left out.
"""

from dataclasses import dataclass

TARGETS = {
    "committed_steps_lost": "steps of committed checkpoints that were not gone on from",
    "commits_lost": "committed checkpoints that were gone",
    "torn_checkpoints_accepted": "checkpoints taken that were not whole",
    "losses_differing": "steps whose losses are not those of the unbroken run, digit for digit",
    "rows_lost": "rows in that are neither out nor in quarantine",
    "rows_doubled": "rows that are out twice",
    "metric_points_lost": "points that MLflow does not have",
    "metric_points_doubled": "points that MLflow has twice",
    "stale_promotions": "promotions decided on a champion that had been replaced",
    "interleaved_writes": "steps that two drivers wrote",
    "trials_lost": "trials that a sweep did not go on with",
    "trials_from_zero": "trials with a checkpoint that began anew",
    "runs_left_running": "runs that are over and RUNNING in MLflow",
    "wrongly_finished": "runs FINISHED after an error",
    "partial_files_left": "files that are not whole, left on a full disk",
    "orphans_left": "unfinished checkpoints after the next start",
    "starts_from_zero": "starts that forgot a run without being told to",
    "secrets_found": "secrets in what an API or a log shows",
    "actors_left": "actors and tasks left in the cluster",
    "placement_groups_left": "placement groups left in the cluster",
    "cpus_left": "CPUs that nobody gives back",
    "workers_left": "worker processes left on a node",
    "processes_left": "processes left on the machine when all is over",
    "hangs_unnoticed": "workers or nodes whose going nobody was told of",
    "needless_starts": "starts of a run that fails each time, beyond what was allowed",
    "bad_candidates_promoted": "candidates with changed files that became champion",
}
"""Figures whose target is 0."""
OTHERS = {
    "steps_redone": "most steps that one restart did again",
    "epochs_redone": "most epochs of a trial done again",
    "starts": "starts that a run had in all",
    "recovery_s": "from the fault to the first step after it",
    "detection_s": "from the fault to its being noticed",
    "longest_stall_s": "longest call that a step waited for",
}
"""Figures that are told; those in seconds as median and worst, the others at most."""


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    what: str
    tests: tuple[str, ...]
    controls: tuple[str, ...] = ()
    """Tests that only show what happens without the mechanism."""
    minutes: float = 10
    """It may take, on two cores."""


RAY, LOOP, WITHOUT = "training/test_ray.py", "training/test_loop.py", "training/test_without.py"
STORE, ZERO, LOCK = "training/test_checkpoints.py", "training/test_zero_state.py", "training/test_run_lock.py"
SWEEPS, RACE, TEAM = "tuning/test_sweeps.py", "registry/test_race.py", "tracking/test_team_server.py"
PSEUDO, TRACKED, JOBS = "distill/test_pseudo_label.py", "tracking/test_run.py", "cluster/test_submission.py"
GENERATORS = f"{WITHOUT}::test_a_resumption_without_it_is_another_run"

FAULTS = {
    "F1": Fault(
        "SIGKILL to rank 0 and rank 1: before a step, within it, within a report, after it",
        ("training/test_killed_workers.py", f"{RAY}::test_ray_replaces_a_killed_worker_without_help"),
        (f"{GENERATORS}[place in the data]",),
        25,
    ),
    "F2": Fault(
        "Resumption equals the unbroken run: losses, weights, every method of weighting, every engine",
        (
            f"{LOOP}::test_a_resumed_run_follows_the_unbroken_one_exactly",
            f"{LOOP}::test_every_method_resumes_exactly",
            f"{LOOP}::test_a_checkpoint_within_an_epoch_resumes_within_it",
            f"{LOOP}::test_pseudo_labels_resume_where_they_were",
        ),
        (GENERATORS,),
        15,
    ),
    "F3": Fault(
        "SIGKILL to a raylet: a spare node, none and then another, none in time; elastic workers are refused",
        (
            "cluster/test_several_nodes.py::test_ddp_over_nodes_outlives_one_of_them",
            "training/test_lost_nodes.py",
            f"{RAY}::test_a_cluster_that_has_no_room_is_told_in_time",
            "training/test_stopping.py::test_workers_that_come_and_go_are_refused",
        ),
        minutes=25,
    ),
    "F4": Fault(
        "SIGKILL, SIGTERM and SIGINT to the driver, SIGTERM to a worker",
        (
            f"{RAY}::test_a_killed_driver_run_again_follows_the_unbroken_run",
            f"{RAY}::test_a_killed_driver_of_two_workers_goes_on",
            f"{RAY}::test_a_driver_stopped_an_index_emptied_a_machine_taken_away",
            "training/test_stopping.py::test_a_run_that_is_told_to_stop_leaves_a_checkpoint_and_goes_on_exactly",
        ),
        (f"{GENERATORS}[random generators]",),
        15,
    ),
    "F5": Fault(
        "Two drivers of one run; a holder that dies",
        (f"{LOCK}::test_a_second_driver_is_refused_until_the_first_dies",
         f"{LOCK}::test_of_several_that_begin_together_one_has_it",
         f"{WITHOUT}::test_two_drivers_of_one_run[locked]"),
        (f"{WITHOUT}::test_two_drivers_of_one_run[unlocked]",),
    ),
    "F6": Fault(
        "SIGKILL within a commit, damaged checkpoints and indexes",
        (f"{STORE}::test_kills_at_random_moments_tear_nothing",
         f"{STORE}::test_a_checkpoint_that_was_tampered_with_is_passed_over",
         f"{STORE}::test_the_index_is_made_again_from_the_manifests",
         f"{STORE}::test_a_run_without_a_valid_checkpoint_does_not_begin_anew"),
    ),
    "F7": Fault(
        "Checkpoints of one fixed name",
        (f"{WITHOUT}::test_a_fixed_name_is_not_offered", f"{STORE}::test_the_best_and_the_last_are_kept"),
        (f"{WITHOUT}::test_a_fixed_name_is_torn",),
    ),
    "F8": Fault(
        "A rank stopped by SIGSTOP, a rank that skips a report",
        ("training/test_hangs.py::test_a_stopped_worker_is_found_and_replaced",
         "training/test_hangs.py::test_a_skipped_report_is_found"),
        ("training/test_hangs.py::test_by_rays_own_limit_it_is_not_found",),
        20,
    ),
    "F9": Fault(
        "A worker that raises each time",
        (f"{RAY}::test_a_worker_that_fails_each_time_ends_the_run",),
        (f"{RAY}::test_a_worker_that_fails_each_time_without_a_bound_is_begun_for_ever",),
        20,
    ),
    "F10": Fault(
        "A full disk: checkpoint, index, Parquet shard, MLflow artifact, journal",
        (f"{STORE}::test_a_full_disk", "training/test_full_disk.py::test_what_does_not_fit_is_told_and_removed",
         f"{TRACKED}::test_a_journal_on_a_full_disk_waits_for_room"),
        ("training/test_full_disk.py::test_what_is_written_in_place_stays_half",),
    ),
    "F11": Fault(
        "A store that fails for a moment, for good, or has no room",
        (f"{STORE}::test_a_store_that_stutters_is_tried_again_and_not_for_ever",),
        (f"{WITHOUT}::test_without_a_second_try_a_moment_ends_it",),
    ),
    "F12": Fault(
        "MLflow down at the start, in the middle, silent, back again",
        (f"{TRACKED}::test_a_server_that_never_answers_holds_nothing_up",
         f"{TRACKED}::test_what_a_run_wrote_without_its_server_arrives_once_it_is_up",
         f"{TRACKED}::test_sending_again_changes_nothing",
         "tracking/test_server_killed.py::test_a_server_killed_in_the_middle_loses_nothing_and_holds_nobody_up"),
        ("tracking/test_server_killed.py::test_without_a_journal_points_are_lost",),
        15,
    ),
    "F13": Fault(
        "Eight trials at once on a fresh store",
        (f"{TEAM}::test_eight_trials_at_once_lose_nothing_and_a_killed_one_is_told",
         f"{TEAM}::test_eight_processes_make_one_fresh_sqlite_file"),
        (f"{TEAM}::test_processes_of_plain_mlflow_do_not",),
        15,
    ),
    "F14": Fault(
        "The status of a run that was killed: SIGTERM, SIGINT, SIGKILL, an error",
        ("training/test_stopping.py::test_a_run_that_is_told_to_stop_leaves_a_checkpoint_and_goes_on_exactly",
         "training/test_stopping.py::test_runs_whose_driver_died_are_ended_by_the_next",
         f"{TEAM}::test_eight_trials_at_once_lose_nothing_and_a_killed_one_is_told",
         f"{RAY}::test_a_worker_that_fails_each_time_ends_the_run"),
        ("tracking/test_server_killed.py::test_without_a_journal_points_are_lost",),
        15,
    ),
    "F15": Fault(
        "Eight processes that promote at once; one request sent five times; a death after the decision",
        (f"{RACE}::test_exactly_one_wins_on_each_champion",
         f"{RACE}::test_one_request_sent_at_once_by_five_has_one_effect",
         f"{RACE}::test_who_dies_after_the_decision_has_decided"),
        (f"{RACE}::test_a_plain_alias_loses",),
    ),
    "F16": Fault(
        "A bad candidate: worse, changed files, wrong data, another family",
        ("registry/test_gate.py", "registry/test_promotion.py::test_changed_files_are_refused_and_written_down"),
    ),
    "F17": Fault(
        "SIGKILL to the driver of a sweep: random search, a population",
        (f"{SWEEPS}::test_a_driver_that_is_killed_loses_no_trial",
         f"{SWEEPS}::test_a_population_changes_while_it_trains_and_survives_its_driver"),
        ("tuning/test_plain_tune.py",),
        20,
    ),
    "F18": Fault(
        "Ray Data: an actor killed, bad rows, the driver killed and run again",
        (f"{PSEUDO}::TestOnRay::test_pairs_in_are_pairs_labelled_and_quarantined",
         f"{PSEUDO}::TestOnRay::test_killed_and_then_with_two_actors_it_writes_the_same_bytes",
         "distill/test_detect.py::test_a_killed_driver_and_a_killed_actor"),
        ("distill/test_plain_ray_data.py",),
        25,
    ),
    "F19": Fault(
        "DeepSpeed: 2, 1 and 2 ranks, ZeRO 0-3; a part missing; all checkpoints gone",
        (f"{ZERO}::test_another_number_of_workers_goes_on", f"{ZERO}::test_a_missing_part_is_an_error",
         f"{STORE}::test_a_run_without_a_valid_checkpoint_does_not_begin_anew"),
        (f"{ZERO}::test_deepspeed_itself_begins_anew",),
    ),
    "F20": Fault(
        "A job that is too large, a secret in its environment",
        ("cluster/test_upload.py::test_a_package_that_ray_would_refuse_is_refused_with_its_largest_files",
         f"{JOBS}::test_secrets_are_named_and_never_sent",
         f"{JOBS}::test_a_secret_that_the_cluster_lacks_stops_the_job_before_it_begins"),
        minutes=25,
    ),
}  # fmt: skip

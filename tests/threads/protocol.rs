//! The protocol of the threads holds in every interleaving that loom explores, and loom finds each seeded fault.

use std::process::Command;

use cinderblock_threads_model::{models, sync};

/// The smallest model, in which the seeded faults are sought.
const PAIR: &str = "a_team_of_two_keeps_the_protocol";

#[test]
fn a_team_of_two_keeps_the_protocol() {
    models::jobs(2, 2, &[2, 2]);
}

#[test]
fn every_chunk_of_every_job_runs_once_and_is_waited_for() {
    models::jobs(3, 1, &[2]);
    models::jobs(3, 0, &[2, 3]);
}

#[test]
fn a_panic_reaches_the_leader_and_the_next_job_runs() {
    models::panic(2, 2);
    models::panic(3, 0);
}

#[test]
fn regions_of_a_team_exclude_each_other() {
    models::regions(1);
}

#[test]
fn a_dropped_team_ends_its_threads() {
    models::dropped(3, 3);
}

#[test]
fn a_child_process_drops_a_team_without_its_locks() {
    models::forked(3, 1);
}

#[test]
fn threads_give_back_before_they_park_or_leave() {
    models::rest(3, 1);
}

/// Weakens each line of the protocol that names a fence or an ordering stronger than relaxed, in a process of its own.
#[test]
fn weakening_any_ordering_is_found() {
    let stronger = ["Ordering::Acquire", "Ordering::Release", "Ordering::AcqRel", "Ordering::SeqCst"];
    let source = include_str!("../../src/threads/jobs.rs").lines().zip(1..);
    let sites: Vec<_> = source.filter(|(line, _)| stronger.iter().any(|name| line.contains(name))).collect();
    assert!(sites.len() >= 6, "found {sites:?}");
    for (line, number) in sites {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", PAIR, "--nocapture"])
            .env(sync::WEAKEN, number.to_string())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let is_found = error.contains("Causality violation") || error.contains("deadlock;");
        assert!(!output.status.success() && is_found, "line {number}: {line}\n{error}");
    }
}

//! Every event in every phase: defined, and as `docs/protocol/deployment.md` says.
//!
//! `SEDGE_BLESS=1` writes the table in that page anew.

use crate::world::{LENGTH_BYTES, World, bundle, digest, good_answer};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;
use std::fmt::Write as _;

const BEGIN: &str = "<!-- Written by tests/deployment/table.rs: begin -->\n";
const END: &str = "<!-- end -->";

fn order(generation: u64, name: &str) -> Order {
    Order {
        commit: CommitRule::Held { deadline_s: 60 },
        ..Order::new(Generation(generation), digest(name), LENGTH_BYTES)
    }
}

/// Phases, and within the long ones the step: how many good answers, or how much more, it takes to get there.
const PLACES: [(&str, Phase, usize); 21] = [
    ("idle", Phase::Idle, 0),
    ("received", Phase::Received, 0),
    ("authorized", Phase::Authorized, 0),
    ("wait-download", Phase::WaitDownload, 0),
    ("downloading", Phase::Downloading, 0),
    ("staged", Phase::Staged, 0),
    ("wait-apply", Phase::WaitApply, 0),
    ("trial: starting", Phase::Trial, 0),
    ("trial: golden", Phase::Trial, 1),
    ("trial: shadow", Phase::Trial, 2),
    ("trial: taking over", Phase::Trial, 3),
    ("probation: soaking", Phase::Probation, 0),
    ("probation: held", Phase::Probation, 1),
    ("committed", Phase::Committed, 0),
    ("reported", Phase::Reported, 0),
    ("reverting", Phase::Reverting, 0),
    ("reverted", Phase::Reverted, 0),
    ("rejected", Phase::Rejected, 0),
    ("cancelled", Phase::Cancelled, 0),
    ("expired", Phase::Expired, 0),
    ("quarantined", Phase::Quarantined, 0),
];

fn device_at(phase: Phase, further: usize) -> World {
    let mut world = device_in(phase);
    for _ in 0..further {
        if phase == Phase::Probation {
            let slot = world.machine.active().expect("active").slot.other();
            handle(&mut world, Event::HealthOk { slot });
            world.now.boot_ms += 60_000;
            handle(&mut world, Event::Deadline);
        } else {
            let (ticket, ask) = world.memory.open.last().expect("a question").clone();
            let event = world.answer(ticket, &ask, good_answer(&ask));
            handle(&mut world, event);
        }
    }
    world
}

/// A device in a phase, reached as a device would.
fn device_in(phase: Phase) -> World {
    let mut world = World::new(Some(Active { slot: Slot::A, bundle: bundle("v1", 1) }));
    handle(&mut world, Event::Booted { running: None });
    answer_all(&mut world);
    if phase == Phase::Idle {
        return world;
    }
    // First a whole update, so that there is a bundle from before.
    if !matches!(phase, Phase::Committed | Phase::Reported) {
        handle(&mut world, Event::Desired(Box::new(order(2, "v2"))));
        run_until(&mut world, Phase::Reported);
        world.memory.open.clear();
        handle(&mut world, Event::DownloadWindowClosed);
        handle(&mut world, Event::ApplyDeferred);
    }
    handle(&mut world, Event::Desired(Box::new(order(5, "v3"))));
    match phase {
        Phase::Expired => {
            world.now.boot_ms += 4_000_000;
            handle(&mut world, Event::Deadline);
        }
        Phase::Cancelled => handle(&mut world, verdict(5, Verdict::Revert)),
        Phase::Rejected => {
            let event = answered(&mut world, Answer::Refused { code: "expired".into(), detail: String::new() });
            handle(&mut world, event);
        }
        Phase::Reverting | Phase::Reverted | Phase::Quarantined => {
            run_until(&mut world, Phase::Probation);
            handle(&mut world, verdict(5, Verdict::Revert));
            if phase == Phase::Reverted {
                answer_all(&mut world);
            }
            while phase == Phase::Quarantined && world.machine.phase() == Phase::Reverting {
                let at = world.machine.next_deadline().expect("a deadline").0;
                world.now.boot_ms = at;
                handle(&mut world, Event::Deadline);
            }
        }
        _ => run_until(&mut world, phase),
    }
    assert_eq!(world.machine.phase(), phase);
    world
}

fn run_until(world: &mut World, phase: Phase) {
    for _ in 0..60 {
        if world.machine.phase() == phase {
            return;
        }
        let generation = world.machine.state().subject().map_or(0, |subject| subject.generation.0);
        match world.machine.state() {
            State::WaitDownload { .. } => handle(world, Event::DownloadWindowOpen),
            State::WaitApply { .. } => handle(world, Event::ApplyAllowed),
            State::Probation { .. } => {
                let slot = world.machine.active().expect("active").slot.other();
                handle(world, Event::HealthOk { slot });
                handle(world, verdict(generation, Verdict::Commit));
                world.now.boot_ms += 60_000;
                handle(world, Event::Deadline);
            }
            State::Committed(ended) => {
                let seq = ended.report_seq;
                handle(world, Event::ReportAcked { seq });
            }
            _ => {
                let (ticket, ask) = world.memory.open.last().expect("a question").clone();
                let event = world.answer(ticket, &ask, good_answer(&ask));
                handle(world, event);
            }
        }
    }
    panic!("never came to {phase}");
}

fn answer_all(world: &mut World) {
    while let Some((ticket, ask)) = world.memory.open.first().cloned() {
        let event = world.answer(ticket, &ask, good_answer(&ask));
        handle(world, event);
    }
}

fn handle(world: &mut World, event: Event) {
    for effect in world.machine.handle(event, world.now) {
        world.perform(&effect);
    }
}

fn verdict(generation: u64, verdict: Verdict) -> Event {
    Event::Verdict { generation: Generation(generation), verdict }
}

/// The answer, to whatever is open.
fn answered(world: &mut World, answer: Answer) -> Event {
    let ticket = world.memory.open.last().map_or(Ticket(9_999), |(ticket, _)| *ticket);
    Event::Answer { ticket, answer }
}

fn events(world: &mut World) -> Vec<Event> {
    let active = world.machine.active().expect("active").slot;
    let generation = world.machine.state().subject().map_or(0, |subject| subject.generation.0);
    let seq = world.machine.record().anchor.report_seq;
    let detail = String::new;
    let answers = [
        Answer::Authorized,
        Answer::Refused { code: detail(), detail: detail() },
        Answer::SpaceReserved,
        Answer::NoSpace,
        Answer::ChunkProgress { done_bytes: 10 },
        Answer::Downloaded,
        Answer::DownloadFailed { permanent: false, detail: detail() },
        Answer::DownloadFailed { permanent: true, detail: detail() },
        Answer::StagedVerified,
        Answer::StagedCorrupt { detail: detail() },
        Answer::WorkerReady,
        Answer::WorkerFailed { detail: detail() },
        Answer::GoldenPassed,
        Answer::GoldenFailed { detail: detail() },
        Answer::Shadow(ShadowVerdict { samples: 100, ..Default::default() }),
        Answer::TookOver,
    ];
    let mut events = vec![Event::Desired(Box::new(order(9, "v4")))];
    events.extend(answers.map(|answer| answered(world, answer)));
    events.extend([
        Event::DownloadWindowOpen,
        Event::DownloadWindowClosed,
        Event::ApplyAllowed,
        Event::ApplyDeferred,
        Event::MemoryShort,
        Event::HealthOk { slot: active.other() },
        Event::HealthBad { slot: active.other(), reason: "slow".into() },
        Event::WorkerDied { slot: active.other() },
        Event::WorkerDied { slot: active },
        verdict(generation, Verdict::Commit),
        verdict(generation, Verdict::Revert),
        Event::OperatorRollback,
        Event::Deadline,
        Event::ReportAcked { seq },
        Event::Booted { running: None },
    ]);
    events
}

/// What an event does in a phase: the phase it leads to, `stays` when something else changes, or nothing.
fn outcome(phase: Phase, further: usize, at: usize) -> (String, String) {
    let mut world = device_at(phase, further);
    let event = events(&mut world).swap_remove(at);
    let of_active = |slot: Slot| world.machine.active().is_some_and(|active| active.slot == slot);
    let name = match &event {
        Event::WorkerDied { slot } if of_active(*slot) => "worker-died, active".to_owned(),
        Event::WorkerDied { .. } | Event::HealthOk { .. } | Event::HealthBad { .. } => {
            format!("{}, inactive", event.name())
        }
        event => event.name().to_owned(),
    };
    let steps = match event {
        // Of all events, these two mean something only at their time.
        Event::Booted { .. } => {
            world.lose_power();
            vec![event]
        }
        Event::Deadline => {
            world.now.boot_ms = world.machine.next_deadline().map_or(0, |(at, _)| at);
            vec![event]
        }
        event => vec![event],
    };
    for event in steps {
        let before = world.machine.record().clone();
        let effects = world.machine.handle(event, world.now);
        let ignored = effects.iter().any(|effect| matches!(effect, Effect::Ignored(_)));
        assert!(!ignored || effects.len() == 1, "{phase} + {name}: ignored, and yet something is done: {effects:?}");
        let changed = *world.machine.record() != before;
        let persists = effects.iter().filter(|effect| matches!(effect, Effect::Persist(_))).count();
        assert!(persists <= 1, "{phase} + {name}: written down {persists} times");
        assert!(persists == 0 || matches!(effects[0], Effect::Persist(_)), "{phase} + {name}: written down late");
        assert!(!(ignored && changed), "{phase} + {name}: ignored, and yet the state changed");
        if ignored {
            return (name, String::new());
        }
    }
    let led = world.machine.phase();
    (name, if led == phase { "stays".into() } else { led.to_string() })
}

#[test]
fn every_event_in_every_phase_does_what_the_page_says() {
    let count = events(&mut device_in(Phase::Idle)).len();
    let columns = |places: &[(&str, Phase, usize)]| {
        let mut table = String::from("| event |");
        places.iter().for_each(|(label, ..)| write!(table, " {label} |").expect("text"));
        table.push_str("\n|---|");
        table.push_str(&"---|".repeat(places.len()));
        table.push('\n');
        for at in 0..count {
            let cells: Vec<_> = places.iter().map(|&(_, phase, further)| outcome(phase, further, at)).collect();
            write!(table, "| {} |", cells[0].0).expect("text");
            cells.iter().for_each(|(_, cell)| write!(table, " {cell} |").expect("text"));
            table.push('\n');
        }
        table
    };
    let covered = |phase: &Phase| PLACES.iter().any(|(_, place, _)| place == phase);
    assert!(Phase::ALL.iter().all(covered), "a phase is missing");
    let table: Vec<_> = PLACES.chunks(7).map(columns).collect();
    let table = table.join("\n");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/deployment.md");
    let page = std::fs::read_to_string(&path).expect("docs/protocol/deployment.md");
    let (before, rest) = page.split_once(BEGIN).expect("the table's beginning");
    let (old, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("SEDGE_BLESS").is_some() && old != table {
        return std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("page");
    }
    assert_eq!(old, table, "SEDGE_BLESS=1 writes the table anew");
}

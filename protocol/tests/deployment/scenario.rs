//! Runs `tests/scenarios/*.txt`. `tests/scenarios/README.md` explains their language.
//!
//! The expected output stands below each command, indented. With `SEDGE_BLESS=1` it is written anew; lines that begin
//! with `expect` hold even then.

use crate::words::{answer, code, describe, fits, milliseconds, name_of, number, order};
use crate::world::{World, bundle, good_answer};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;
use std::fmt::Write as _;
use std::path::Path;

#[derive(Default)]
struct Script {
    world: Option<World>,
    /// Answered or dropped questions, for `late`.
    past: Vec<(Ticket, Ask)>,
    last_report: Option<Report>,
    shown: String,
}

#[test]
fn scenarios_end_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).expect("scenarios").map(|e| e.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(paths.len() >= 25, "only {} scenarios in {}", paths.len(), folder.display());
    let mut wrong = String::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("scenario");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match replay(&text) {
            Err(fault) => writeln!(wrong, "{name}: {fault}").expect("text"),
            Ok(out) if out != text && std::env::var_os("SEDGE_BLESS").is_some() => {
                std::fs::write(&path, out).expect("scenario");
            }
            Ok(out) if out != text => {
                let line = out.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(0);
                let (is, said) = (out.lines().nth(line).unwrap_or(""), text.lines().nth(line).unwrap_or(""));
                writeln!(wrong, "{name}:{}\n  says {said}\n  is   {is}", line + 1).expect("text");
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nSEDGE_BLESS=1 writes the output anew");
}

fn replay(text: &str) -> Result<String, String> {
    let mut script = Script::default();
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("    ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.starts_with('#') {
            continue;
        }
        let shown = script.command(&words).map_err(|fault| format!("line {}: `{line}`: {fault}", number + 1))?;
        for line in shown.lines() {
            out.push_str(format!("    {line}").trim_end());
            out.push('\n');
        }
    }
    Ok(out)
}

impl Script {
    fn world(&mut self) -> Result<&mut World, String> {
        self.world.as_mut().ok_or_else(|| "`device` comes first".to_owned())
    }

    fn command(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["device", "empty"] => self.device(None),
            ["device", name] => self.device(Some(Active { slot: Slot::A, bundle: bundle(name, 1) })),
            ["expect", rest @ ..] => self.expect(rest).map(|()| String::new()),
            ["unwritten", rest @ ..] => {
                let event = self.event(rest)?;
                let world = self.world()?;
                world.machine.handle(event, world.now);
                self.power_cut()
            }
            ["torn", rest @ ..] => {
                let event = self.event(rest)?;
                let world = self.world()?;
                match world.machine.handle(event, world.now).first() {
                    Some(Effect::Persist(record)) => world.tear(record, 700),
                    _ => return Err("wrote nothing".into()),
                }
                self.power_cut()
            }
            ["power-cut"] => self.power_cut(),
            ["power-cut", "off", time] => {
                let off_s = milliseconds(time)? / 1000;
                let world = self.world()?;
                world.now.unix_s = world.now.unix_s.map(|s| s + off_s);
                self.power_cut()
            }
            ["restart", "into", slot] => {
                let running = Some(self.slot(slot)?);
                self.world()?.lose_power();
                self.handle(Event::Booted { running })
            }
            ["clock", "unknown"] => {
                self.world()?.now.unix_s = None;
                Ok(String::new())
            }
            ["clock", unix_s] => {
                self.world()?.now.unix_s = Some(number(unix_s)?);
                Ok(String::new())
            }
            ["after", time] => {
                let ms = milliseconds(time)?;
                let world = self.world()?;
                world.now.boot_ms += ms;
                world.now.unix_s = world.now.unix_s.map(|s| s + ms / 1000);
                self.handle(Event::Deadline)
            }
            ["until", phase] => self.until(phase),
            ["journal-of-version", format] => {
                let world = self.world()?;
                let format = number(format)? as u16;
                let json = serde_json::to_string(world.machine.record()).map_err(|e| e.to_string())?;
                let json = json.replace("\"state\":", "\"levitation\":");
                world.disk.write(&record::encode_frame(format, json.as_bytes()));
                self.power_cut()
            }
            _ => {
                let event = self.event(words)?;
                self.handle(event)
            }
        }
    }

    fn device(&mut self, provisioned: Option<Active>) -> Result<String, String> {
        let empty = provisioned.is_none();
        self.world = Some(World::new(provisioned));
        self.handle(Event::Booted { running: None })?;
        if !empty {
            let event = self.event(&["took-over"])?;
            self.handle(event)?;
        }
        Ok(String::new())
    }

    fn power_cut(&mut self) -> Result<String, String> {
        self.world()?.lose_power();
        self.past.clear();
        self.handle(Event::Booted { running: None })
    }

    fn handle(&mut self, event: Event) -> Result<String, String> {
        let world = self.world.as_mut().ok_or("`device` comes first")?;
        let open = world.memory.open.clone();
        let effects = world.machine.handle(event, world.now);
        let mut names = Vec::new();
        for effect in &effects {
            world.perform(effect);
            if let Effect::Report(report) = effect {
                self.last_report = Some(report.clone());
            }
            names.push(describe(effect));
        }
        self.past.extend(open);
        let still = &world.memory.open;
        self.past.retain(|(ticket, _)| !still.iter().any(|(open, _)| open == ticket));
        let waiting = world.machine.waiting().map_or(String::new(), |why| format!(", waiting: {why:?}"));
        let state = format!("now {}{waiting}", world.machine.phase());
        let mut shown = String::new();
        if !names.is_empty() {
            writeln!(shown, "do  {}", names.join("; ")).map_err(|e| e.to_string())?;
        }
        if state != self.shown {
            writeln!(shown, "{state}").map_err(|e| e.to_string())?;
            self.shown = state;
        }
        Ok(shown)
    }

    /// Lets everything go well until a phase is reached, and shows no more than that it was.
    fn until(&mut self, phase: &str) -> Result<String, String> {
        for _ in 0..60 {
            let world = self.world()?;
            if world.machine.phase().name() == phase {
                return Ok(format!("now {phase}\n"));
            }
            let event = match world.machine.state() {
                State::WaitDownload { .. } => Event::DownloadWindowOpen,
                State::WaitApply { .. } => Event::ApplyAllowed,
                State::Probation { step: ProbationStep::Soaking { healthy: false, .. }, .. } => {
                    Event::HealthOk { slot: self.slot("trial")? }
                }
                State::Probation { .. } => {
                    let (at, _) = world.machine.next_deadline().ok_or("no deadline")?;
                    world.now.boot_ms = at;
                    Event::Deadline
                }
                State::Committed(ended) => Event::ReportAcked { seq: ended.report_seq },
                _ => {
                    let (ticket, ask) = world.memory.open.last().cloned().ok_or("nothing is asked")?;
                    world.answer(ticket, &ask, good_answer(&ask))
                }
            };
            self.handle(event)?;
        }
        Err(format!("never came to {phase}"))
    }

    fn slot(&mut self, word: &str) -> Result<Slot, String> {
        let active = self.world()?.machine.active().map(|active| active.slot);
        match (word, active) {
            ("active", Some(slot)) => Ok(slot),
            ("active", None) => Err("nothing is active".into()),
            ("trial" | "inactive", active) => Ok(active.map_or(Slot::A, Slot::other)),
            _ => Err(format!("`{word}` is none of active, trial, inactive")),
        }
    }

    fn event(&mut self, words: &[&str]) -> Result<Event, String> {
        Ok(match words {
            ["desired", generation, name, settings @ ..] => {
                Event::Desired(Box::new(order(number(generation)?, name, settings)?))
            }
            ["window", "open"] => Event::DownloadWindowOpen,
            ["window", "closed"] => Event::DownloadWindowClosed,
            ["apply", "allowed"] => Event::ApplyAllowed,
            ["apply", "deferred"] => Event::ApplyDeferred,
            ["memory", "short"] => Event::MemoryShort,
            ["healthy", slot] => Event::HealthOk { slot: self.slot(slot)? },
            ["unhealthy", slot, reason @ ..] => Event::HealthBad { slot: self.slot(slot)?, reason: reason.join(" ") },
            ["died", slot] => {
                let slot = self.slot(slot)?;
                let memory = &mut self.world()?.memory;
                memory.workers[crate::world::index(slot)] = None;
                memory.route.take_if(|route| *route == slot);
                Event::WorkerDied { slot }
            }
            ["verdict", "commit", generation] => {
                Event::Verdict { generation: Generation(number(generation)?), verdict: Verdict::Commit }
            }
            ["verdict", "revert", generation] => {
                Event::Verdict { generation: Generation(number(generation)?), verdict: Verdict::Revert }
            }
            ["operator", "rollback"] => Event::OperatorRollback,
            ["acked"] => {
                let seq = self.last_report.as_ref().ok_or("nothing was reported")?.seq;
                Event::ReportAcked { seq }
            }
            ["late", rest @ ..] => {
                let answer = answer(rest)?;
                let open = &self.world.as_ref().ok_or("`device` comes first")?.memory.open;
                let fits = |(ticket, ask): &&(Ticket, Ask)| {
                    fits(ask, &answer) && !open.iter().any(|(still, _)| still == ticket)
                };
                let (ticket, _) = self.past.iter().rev().find(fits).ok_or("nothing of the kind was asked before")?;
                Event::Answer { ticket: *ticket, answer }
            }
            _ => {
                let answer = answer(words)?;
                let wanted = words.get(1).filter(|_| words[0] == "authorized" || words[0] == "refused");
                let wanted = wanted.and_then(|word| word.parse().ok()).map(Generation);
                let world = self.world()?;
                let of = |ask: &Ask| match (ask, wanted) {
                    (Ask::Authorize { order }, Some(wanted)) => order.generation == wanted,
                    _ => true,
                };
                let open = world.memory.open.iter().rev().find(|(_, ask)| fits(ask, &answer) && of(ask));
                let (ticket, ask) = open.cloned().ok_or("nothing open has this answer")?;
                world.answer(ticket, &ask, answer)
            }
        })
    }

    fn expect(&mut self, words: &[&str]) -> Result<(), String> {
        let report = self.last_report.clone();
        let world = self.world()?;
        let named = |found: Option<String>, name: &str| {
            let found = found.unwrap_or_else(|| "nothing".into());
            if found == name { Ok(()) } else { Err(format!("is {found}")) }
        };
        match words {
            ["state", name] => named(Some(world.machine.phase().to_string()), name),
            ["code", name] => named(report.map(|r| code(r.code)), name),
            ["serving", name] => {
                let worker = world.memory.route.and_then(|slot| world.memory.workers[crate::world::index(slot)]);
                named(worker.map(name_of), name)
            }
            ["active", name] => named(world.machine.active().map(|a| name_of(a.bundle.digest)), name),
            ["previous", name] => match world.machine.inactive() {
                Inactive::Previous(bundle) => named(Some(name_of(bundle.digest)), name),
                _ => named(None, name),
            },
            ["running", count] => {
                let running = world.memory.workers.iter().flatten().count();
                named(Some(running.to_string()), count)
            }
            ["authorized", generation] => named(Some(world.machine.record().anchor.authorized.to_string()), generation),
            ["deadline", time] => {
                let left = world.machine.next_deadline().map(|(at, _)| at - world.now.boot_ms);
                let wanted = milliseconds(time)?;
                named(left.map(|ms| format!("{ms} ms")), &format!("{wanted} ms"))
            }
            ["unacknowledged", count] => named(Some(world.machine.record().anchor.reports.len().to_string()), count),
            _ => Err("unknown expectation".into()),
        }
    }
}

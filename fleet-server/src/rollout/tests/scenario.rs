//! Runs `tests/scenarios/rollout/*.txt`. The README beside them explains their language.
//!
//! The expected output stands below each command, indented. With `SEDGE_BLESS=1` it is written anew; lines that begin
//! with `expect` hold even then.

use super::fleet::{Kept, candidate, declared, digest, salt};
use super::words::{counters, describe, evidence, milliseconds, number, problem, state};
use crate::rollout::*;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{DeviceId, Generation};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

/// Midnight of some day, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_800_000_000_000;

#[derive(Default)]
struct Script {
    /// Devices by the names that a scenario uses: `d1` is the first of the plan.
    ids: BTreeMap<String, DeviceId>,
    inventory: Vec<Candidate>,
    toml: String,
    kept: Option<Kept>,
    /// Whether the server performs assignments at once.
    silent: bool,
    now_ms: u64,
    shown: String,
}

#[test]
fn scenarios_end_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios/rollout");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).expect("scenarios").map(|e| e.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(paths.len() >= 30, "only {} scenarios in {}", paths.len(), folder.display());
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
    let mut script = Script { now_ms: BEGINNING_MS, ..Script::default() };
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("    ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let shown = match line.strip_prefix('|') {
            Some(toml) => writeln!(script.toml, "{toml}").map(|()| String::new()).map_err(|e| e.to_string()),
            None => script.command(&line.split_whitespace().collect::<Vec<_>>()),
        };
        let shown = shown.map_err(|fault| format!("line {}: `{line}`: {fault}", number + 1))?;
        for line in shown.lines() {
            out.push_str(format!("    {line}").trim_end());
            out.push('\n');
        }
    }
    Ok(out)
}

impl Script {
    fn kept(&mut self) -> Result<&mut Kept, String> {
        self.kept.as_mut().ok_or_else(|| "`plan` comes first".to_owned())
    }

    fn id(&self, word: &str) -> Result<DeviceId, String> {
        self.ids.get(word).cloned().ok_or_else(|| format!("there is no device `{word}`"))
    }

    fn name(&self, id: &DeviceId) -> String {
        let found = self.ids.iter().find(|(_, known)| *known == id);
        found.map_or_else(|| id.to_string(), |(name, _)| name.clone())
    }

    /// `d1`, or `d1..d4`.
    fn range(&self, word: &str) -> Result<Vec<DeviceId>, String> {
        let Some((first, last)) = word.split_once("..") else { return Ok(vec![self.id(word)?]) };
        let of = |word: &str| number(word.strip_prefix('d').unwrap_or(word));
        (of(first)?..=of(last)?).map(|n| self.id(&format!("d{n}"))).collect()
    }

    fn command(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["fleet", count] => self.fleet(number(count)?),
            ["device", name, what @ ..] => self.describe_device(name, what).map(|()| String::new()),
            ["plan"] => self.plan(),
            ["expect", rest @ ..] => self.expect(rest).map(|()| String::new()),
            ["server", "silent"] => {
                self.silent = true;
                Ok(String::new())
            }
            ["server", "answers"] => {
                self.silent = false;
                Ok(String::new())
            }
            ["crash"] => self.crash(0),
            ["crash", "for", time] => self.crash(milliseconds(time)?),
            ["after", time] => {
                self.now_ms += milliseconds(time)?;
                self.handle(vec![Event::Deadline])
            }
            ["gates", wave] => {
                let wave = number(wave)? as usize - 1;
                Ok(self.kept()?.rollout.gates(wave).iter().map(|gate| evidence(gate) + "\n").collect())
            }
            ["waits", name] => {
                let id = self.id(name)?;
                Ok(format!("{:?}", self.kept()?.rollout.device_waits(&id)))
            }
            [devices, "go", "well"] => self.go_well(devices),
            [devices, "come", "to", state] => self.come_to(devices, state),
            _ => {
                let events = self.events(words)?;
                self.handle(events)
            }
        }
    }

    fn fleet(&mut self, count: u64) -> Result<String, String> {
        let mut ids: Vec<DeviceId> = (1..=count).map(|n| format!("cam-{n}").parse().expect("id")).collect();
        ids.sort_by_key(|id| bucket(&salt(), id));
        self.inventory = ids.iter().cloned().map(candidate).collect();
        self.ids = ids.into_iter().zip(1..).map(|(id, n)| (format!("d{n}"), id)).collect();
        Ok(String::new())
    }

    fn describe_device(&mut self, name: &str, what: &[&str]) -> Result<(), String> {
        let id = self.id(name)?;
        let of = self.inventory.iter_mut().find(|c| c.device == id).ok_or("no such device")?;
        match what {
            ["runs", bundle] => (of.running, of.desired) = (Some(digest(bundle)), Some(digest(bundle))),
            ["was", "never", "seen"] => of.seen = false,
            ["is", "decommissioned"] => of.decommissioned = true,
            ["lacks", "memory"] => of.unmet = Some(Requirement::Memory),
            ["is", "in", "rollout", rollout] => of.rollout = Some(rollout.parse().map_err(|_| "no id")?),
            _ => return Err("unknown description".into()),
        }
        Ok(())
    }

    fn plan(&mut self) -> Result<String, String> {
        let toml = std::mem::take(&mut self.toml);
        let planned = declared(&toml).map_err(PlanError::from).and_then(|spec| plan(spec, &self.inventory, salt()));
        let planned = match planned {
            Ok(planned) => planned,
            Err(e) => return Ok(format!("error: {e}")),
        };
        let mut out = String::new();
        let mut rest = &planned.devices[..];
        for wave in &planned.waves {
            let (members, others) = rest.split_at(wave.devices as usize);
            rest = others;
            let names: Vec<_> = members.iter().map(|id| self.name(id)).collect();
            writeln!(out, "{}: {}", wave.name, if names.is_empty() { "nobody".into() } else { names.join(" ") })
                .map_err(|e| e.to_string())?;
        }
        for (id, why) in &planned.skipped {
            writeln!(out, "{} takes no part: {}", self.name(id), why.name()).map_err(|e| e.to_string())?;
        }
        if let Some(seconds) = planned.verdict_deadline_s {
            writeln!(out, "devices hold for {seconds} s").map_err(|e| e.to_string())?;
        }
        self.kept = Some(Kept::new(planned));
        Ok(out)
    }

    fn crash(&mut self, down_ms: u64) -> Result<String, String> {
        self.now_ms += down_ms;
        let now_ms = self.now_ms;
        let effects = self.kept()?.crash(now_ms);
        let mut done = Vec::new();
        let answers = self.perform(effects, &mut done)?;
        self.carry_on(answers, done)
    }

    fn handle(&mut self, events: Vec<Event>) -> Result<String, String> {
        self.carry_on(events.into(), Vec::new())
    }

    fn carry_on(&mut self, mut events: VecDeque<Event>, mut done: Vec<String>) -> Result<String, String> {
        let now_ms = self.now_ms;
        while let Some(event) = events.pop_front() {
            let effects = self.kept()?.handle(event, now_ms);
            events.extend(self.perform(effects, &mut done)?);
        }
        let summary = self.kept()?.rollout.summary(now_ms);
        let waves: Vec<_> = summary.waves.iter().map(|wave| wave.state.as_str()).collect();
        let state = format!("now {} [{}] {}", summary.state, waves.join(" "), summary.sentence);
        let mut out = String::new();
        if !done.is_empty() {
            writeln!(out, "do  {}", done.join("; ")).map_err(|e| e.to_string())?;
        }
        if state != self.shown {
            writeln!(out, "{state}").map_err(|e| e.to_string())?;
            self.shown = state;
        }
        Ok(out)
    }

    /// What a server does at once, and its answers.
    fn perform(&mut self, effects: Vec<Effect>, done: &mut Vec<String>) -> Result<VecDeque<Event>, String> {
        let mut answers = VecDeque::new();
        for effect in effects {
            done.push(describe(&effect, |id| self.name(id)));
            if self.silent {
                continue;
            }
            match effect {
                Effect::Assign { device } => {
                    let generation = self.kept()?.next_generation(&device);
                    answers.push_back(Event::Assigned { device, generation });
                }
                Effect::RollBack { device } => {
                    let generation = self.kept()?.next_generation(&device);
                    answers.push_back(Event::RollBackAssigned { device, generation });
                }
                _ => {}
            }
        }
        Ok(answers)
    }

    fn report(&mut self, device: DeviceId, word: &str, rest: &[&str]) -> Result<Event, String> {
        let (state, held, running) = state(word)?;
        let of = |kept: &Kept| kept.rollout.device(&device).map(|(of, _)| of.generation.max(of.back_generation));
        let mut generation = of(self.kept()?).unwrap_or(Generation(0));
        let (mut running, mut error) = (Some(running), None);
        for word in rest {
            match word.split_once('=') {
                Some(("generation", value)) => generation = Generation(number(value)?),
                Some(("running", "nothing")) => running = None,
                Some(("running", value)) => running = Some(digest(value)),
                _ => error = Some(word.parse().map_err(|_| format!("`{word}` is no error code"))?),
            }
        }
        Ok(Event::DeviceReported { device, generation, state, held, running, error })
    }

    /// All that a good update says, up to its probation; then held or committed, as the plan wants it.
    fn go_well(&mut self, devices: &str) -> Result<String, String> {
        let held = self.kept()?.rollout.plan().spec.commit == Commit::Held;
        self.come_to(devices, if held { "held" } else { "committed" })
    }

    fn come_to(&mut self, devices: &str, state: &str) -> Result<String, String> {
        let mut events = Vec::new();
        for device in self.range(devices)? {
            for word in ["received", "trial", state] {
                if word != state || state != "trial" {
                    events.push(self.report(device.clone(), word, &[])?);
                }
            }
            if state == "trial" {
                events.push(self.report(device, "trial", &[])?);
            }
        }
        self.handle(events)
    }

    fn events(&mut self, words: &[&str]) -> Result<Vec<Event>, String> {
        let actor = |words: &[&str]| words.last().copied().unwrap_or("anna").to_owned();
        Ok(match words {
            ["start"] => vec![Event::Start { actor: "anna".into() }],
            ["pause", by @ ..] => vec![Event::Pause { actor: actor(by) }],
            ["resume", by @ ..] => vec![Event::Resume { actor: actor(by) }],
            ["abort", "leave"] => vec![Event::Abort { actor: "anna".into(), roll_back: false }],
            ["abort", "roll-back"] => vec![Event::Abort { actor: "anna".into(), roll_back: true }],
            ["gate", wave] => vec![Event::ManualGatePassed { wave: number(wave)? as usize - 1, actor: "anna".into() }],
            ["superseded", "by", rollout] => vec![Event::Superseded { by: rollout.parse().map_err(|_| "no id")? }],
            ["control", devices, rest @ ..] => {
                let counters = counters(rest)?.unwrap_or_default();
                vec![Event::ControlHealth { counters, devices: number(devices)? as u32 }]
            }
            ["joined", name, what @ ..] => {
                let id: DeviceId = format!("late-{name}").parse().map_err(|_| "no id")?;
                self.ids.insert((*name).to_owned(), id.clone());
                self.inventory.push(candidate(id.clone()));
                if !what.is_empty() {
                    self.describe_device(name, what)?;
                }
                let found = self.inventory.iter().find(|c| c.device == id).cloned().ok_or("no device")?;
                vec![Event::DeviceJoined { candidate: found }]
            }
            ["stranger", "reports", state] => vec![self.report("stranger".parse().expect("id"), state, &[])?],
            [devices, rest @ ..] => {
                let devices = self.range(devices)?;
                devices.into_iter().map(|device| self.of_device(device, rest)).collect::<Result<_, _>>()?
            }
            [] => vec![],
        })
    }

    fn of_device(&mut self, device: DeviceId, words: &[&str]) -> Result<Event, String> {
        Ok(match words {
            ["assigned"] => {
                let generation = self.kept()?.next_generation(&device);
                Event::Assigned { device, generation }
            }
            ["assigned", generation] => Event::Assigned { device, generation: Generation(number(generation)?) },
            ["not", "assigned", why] => Event::AssignFailed { device, problem: problem(why)? },
            ["rolled-back"] => {
                let generation = self.kept()?.next_generation(&device);
                Event::RollBackAssigned { device, generation }
            }
            ["not", "rolled-back", why] => Event::RollBackFailed { device, problem: problem(why)? },
            ["reports", state, rest @ ..] => self.report(device, state, rest)?,
            ["beats", running, rest @ ..] => {
                let (mut first, mut rest) = (None, rest.to_vec());
                if let Some(at) = rest.iter().position(|word| word.starts_with("first-result")) {
                    first = Some(self.now_ms);
                    rest.remove(at);
                }
                let running: BundleDigest = digest(running);
                Event::Heartbeat { device, running, counters: counters(&rest)?, first_result_ts_ms: first }
            }
            ["online"] => Event::Presence { device, online: true },
            ["offline"] => Event::Presence { device, online: false },
            ["gone"] => Event::DeviceGone { device },
            ["steered", "by", "hand"] => {
                let generation = self.kept()?.next_generation(&device);
                Event::OtherAssignment { device, generation }
            }
            _ => return Err("unknown command".into()),
        })
    }

    fn expect(&mut self, words: &[&str]) -> Result<(), String> {
        let now_ms = self.now_ms;
        let named = |found: String, wanted: &str| if found == wanted { Ok(()) } else { Err(format!("is {found}")) };
        let id = words.first().and_then(|name| self.ids.get(*name)).cloned();
        let rollout = &self.kept()?.rollout;
        match words {
            ["state", name] => named(rollout.state().name().to_owned(), name),
            ["wave", wave, name] => {
                let wave = number(wave)? as usize - 1;
                named(rollout.waves().get(wave).ok_or("no such wave")?.name().to_owned(), name)
            }
            ["sentence", rest @ ..] => named(rollout.summary(now_ms).sentence, &rest.join(" ")),
            ["back", count] => named(rollout.summary(now_ms).devices_back.to_string(), count),
            ["touched", count] => named(rollout.summary(now_ms).devices_touched.to_string(), count),
            ["harm", time] => {
                let found = rollout.summary(now_ms).first_result_to_last_back_ms;
                named(found.map_or("none".into(), |ms| format!("{ms}ms")), &format!("{}ms", milliseconds(time)?))
            }
            ["next", time] => {
                let left = rollout.next_deadline().map(|(at, _)| at - now_ms);
                named(left.map_or("never".into(), |ms| format!("{ms}ms")), &format!("{}ms", milliseconds(time)?))
            }
            ["nothing", "next"] => named(format!("{:?}", rollout.next_deadline()), "None"),
            [step, count] if Step::ALL.iter().any(|s| s.name() == *step) => {
                let step = Step::ALL.iter().find(|s| s.name() == *step).ok_or("no step")?;
                named(rollout.count(*step).to_string(), count)
            }
            [_, step] => {
                let id = id.ok_or("unknown expectation")?;
                named(rollout.device(&id).ok_or("no such device")?.0.step.name().to_owned(), step)
            }
            _ => Err("unknown expectation".into()),
        }
    }
}

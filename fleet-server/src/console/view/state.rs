//! States that are shown, each with its word, its tone and its icon: colour alone never tells one.

/// How good or bad something is: gives colour and icon, always beside a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Stands still and waits for something.
    Waiting,
    /// Went wrong.
    Bad,
    /// Nothing to say about.
    Quiet,
}

impl Tone {
    /// The class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal, $tone:ident, $icon:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every one, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for people.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// How good or bad it is.
            pub fn tone(self) -> Tone {
                match self { $(Self::$variant => Tone::$tone),+ }
            }

            /// Name of its icon.
            pub fn icon(self) -> &'static str {
                match self { $(Self::$variant => $icon),+ }
            }
        }
    };
}

states! {
    /// Where a rollout stands.
    RolloutState {
        /// It has not begun.
        Scheduled = "scheduled", Quiet, "ring";
        /// It goes on.
        Running = "running", Busy, "moving";
        /// Somebody stopped it for now.
        Paused = "paused", Waiting, "pause";
        /// A gate stopped it.
        Halted = "halted", Bad, "cross";
        /// Devices go back.
        RollingBack = "rolling back", Waiting, "back";
        /// All devices went back.
        RolledBack = "rolled back", Waiting, "back";
        /// Not all devices went back.
        RollbackFailed = "rollback failed", Bad, "cross";
        /// It reached everybody.
        Completed = "completed", Good, "check";
        /// Somebody ended it.
        Aborted = "aborted", Quiet, "stop";
        /// A later one took its place.
        Superseded = "superseded", Quiet, "stop";
    }
}

states! {
    /// Where a wave stands.
    WaveState {
        /// Those before it are not through.
        Pending = "pending", Quiet, "ring";
        /// Somebody has to let it begin.
        AwaitingGate = "awaits approval", Waiting, "pause";
        /// Its devices are being told.
        Dispatching = "dispatching", Busy, "moving";
        /// Its devices run the bundle and are watched.
        Soaking = "soaking", Busy, "clock";
        /// Its gates are judged.
        Judging = "judging", Busy, "clock";
        /// It went well.
        Passed = "passed", Good, "check";
        /// A gate failed.
        Failed = "failed", Bad, "cross";
        /// It had nothing to do, or the rollout ended before it.
        Skipped = "skipped", Quiet, "stop";
    }
}

states! {
    /// Where a device stands.
    DeviceState {
        /// It runs what it should, and no rollout moves it.
        Settled = "settled", Good, "check";
        /// It took the rollout's bundle.
        Succeeded = "succeeded", Good, "check";
        /// It was told what to run.
        Assigned = "assigned", Busy, "moving";
        /// It downloads, verifies or tries.
        Progress = "updating", Busy, "moving";
        /// It runs the bundle and waits for the verdict.
        Holding = "holding", Waiting, "pause";
        /// It waits for something of its own.
        Waiting = "waiting", Waiting, "clock";
        /// It goes back.
        GoingBack = "going back", Waiting, "back";
        /// It went back.
        Back = "went back", Quiet, "back";
        /// The bundle failed on it.
        Failed = "failed", Bad, "cross";
        /// It refused the bundle.
        Rejected = "rejected", Bad, "cross";
        /// It did not finish in time.
        TimedOut = "timed out", Bad, "cross";
        /// It does not answer.
        Unreachable = "unreachable", Waiting, "offline";
        /// Its turn has not come.
        NotStarted = "not started", Quiet, "ring";
        /// Somebody told it to run something else.
        Superseded = "superseded", Quiet, "stop";
        /// The rollout leaves it out.
        Skipped = "skipped", Quiet, "stop";
        /// Nobody has said what it should run.
        Idle = "nothing assigned", Quiet, "ring";
    }
}

states! {
    /// What a gate says.
    Verdict {
        /// Within the limit.
        Pass = "pass", Good, "check";
        /// Beyond it.
        Fail = "fail", Bad, "cross";
        /// It holds until there is more to judge by.
        NotEnoughData = "not enough data yet", Waiting, "clock";
    }
}

states! {
    /// Whether a device is connected.
    Online {
        /// It is.
        Online = "online", Good, "online";
        /// It is not.
        Offline = "offline", Quiet, "offline";
        /// It has enrolled and never connected.
        Never = "never connected", Quiet, "ring";
    }
}

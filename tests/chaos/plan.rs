//! What an episode does, drawn from its seed: the same seed gives the same cluster, proxies, clients and faults in the
//! same order. Knows nothing of the cluster that it will happen to.

/// xorshift64*: the same sequence from the same seed, everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// `stream` tells the users of one seed apart.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut random = Self(mixed | 1);
        // Neighbouring seeds begin alike.
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn chance(&mut self, in_ten: u64) -> bool {
        self.below(10) < in_ten
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// How a primary is lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// SIGKILL to everything.
    Kill,
    /// SIGKILL to the postmaster: its children live on as orphans for a while.
    KillPostmaster,
    StopFast,
    StopImmediate,
    /// A host that hangs, and comes back when another has taken over.
    Freeze,
    /// Nothing passes between proxy and primary, until another has taken over.
    Cut,
    /// It is not lost at all: a standby is promoted beside it.
    Live,
}

/// What happens to a standby, or to its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Kill,
    StopFast,
    Freeze,
    Cut,
    Reset,
    /// It receives and answers, and its data gets older.
    PauseReplay,
}

/// What happens to a primary that stays the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stumble {
    RestartFast,
    RestartImmediate,
    RestartKilled,
    /// One of its processes is killed, and it ends and restarts all others.
    Crash,
    Freeze,
    Cut,
    /// All connections from proxies end with RST.
    Reset,
}

/// How the old primary is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// `pg_rewind`.
    Rewind,
    /// A new base backup.
    Backup,
    /// First as it was: a primary that nobody has told of its successor, and that commits without asking a standby.
    Revived,
}

/// One thing that happens, with everything until all is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another node becomes the primary.
    FailOver {
        loss: Loss,
        /// Befalls the other standby before.
        before: Option<Trouble>,
        /// What whoever decides on promotions takes to be sure, in milliseconds.
        decision: u64,
        back: Return,
    },
    /// The same, as planned, by `PROMOTE` in the console.
    SwitchOver,
    /// The primary stays the primary.
    Stumble { how: Stumble, millis: u64 },
    /// A standby is lost for a while.
    Standby { trouble: Trouble, millis: u64 },
}

impl Step {
    /// The word under which figures are kept.
    pub fn word(self) -> String {
        match self {
            Self::FailOver { loss, back: Return::Revived, .. } => format!("{loss:?}, revived"),
            Self::FailOver { loss, .. } => format!("{loss:?}"),
            Self::SwitchOver => "SwitchOver".to_owned(),
            Self::Stumble { how, .. } => format!("{how:?} in place"),
            Self::Standby { trouble, .. } => format!("standby {trouble:?}"),
        }
    }
}

const LOSSES: [Loss; 7] = [
    Loss::Kill,
    Loss::KillPostmaster,
    Loss::StopFast,
    Loss::StopImmediate,
    Loss::Freeze,
    Loss::Cut,
    Loss::Live,
];
const TROUBLES: [Trouble; 6] =
    [Trouble::Kill, Trouble::StopFast, Trouble::Freeze, Trouble::Cut, Trouble::Reset, Trouble::PauseReplay];
const STUMBLES: [Stumble; 7] = [
    Stumble::RestartFast,
    Stumble::RestartImmediate,
    Stumble::RestartKilled,
    Stumble::Crash,
    Stumble::Freeze,
    Stumble::Cut,
    Stumble::Reset,
];

/// How many standbys stand beside the primary.
pub const STANDBYS: usize = 2;

/// A whole episode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// In front of the same cluster; every client uses one of them.
    pub proxies: usize,
    /// `pool.mode`
    pub mode: &'static str,
    /// `route.split`
    pub split: &'static str,
    /// `retry.resolve_commit`
    pub resolve: bool,
    /// `retry.transactions`
    pub replay: bool,
    /// `retry.listen`
    pub listen: bool,
    pub steps: Vec<Step>,
}

impl Plan {
    /// Seeds that follow each other have all combinations of settings; each kind of step comes once before one comes twice.
    pub fn draw(seed: u64, steps: usize) -> Self {
        let mut random = Random::new(seed, 0);
        let mut deck = Vec::new();
        while deck.len() < steps {
            deck.extend(shuffled_kinds(&mut random));
        }
        deck.truncate(steps);
        Self {
            seed,
            proxies: if seed.is_multiple_of(5) { 2 } else { 1 },
            mode: if seed & 1 == 0 { "session" } else { "transaction" },
            split: if seed & 2 == 0 { "declared" } else { "auto" },
            resolve: seed & 4 != 0,
            replay: seed & 8 != 0,
            listen: seed & 16 != 0,
            steps: deck,
        }
    }

    /// In one line, for people.
    pub fn words(&self) -> String {
        let Self { seed, proxies, mode, split, resolve, replay, listen, steps } = self;
        format!(
            "seed {seed}: {proxies} proxies, pool.mode {mode}, route.split {split}, retry.resolve_commit {resolve}, \
             retry.transactions {replay}, retry.listen {listen}, {} steps",
            steps.len()
        )
    }
}

/// One step of every kind, more or less, in any order: failovers are half of them.
fn shuffled_kinds(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::SwitchOver];
    for loss in LOSSES {
        let before = random.chance(3).then(|| random.pick(&TROUBLES));
        let back = random.pick(&[Return::Rewind, Return::Rewind, Return::Backup]);
        steps.push(Step::FailOver { loss, before, decision: random.between(50, 1200), back });
    }
    steps.push(Step::FailOver {
        loss: random.pick(&[Loss::Kill, Loss::StopImmediate]),
        before: None,
        decision: 100,
        back: Return::Revived,
    });
    for how in STUMBLES {
        if random.chance(6) {
            steps.push(Step::Stumble { how, millis: random.between(100, 2500) });
        }
    }
    for trouble in TROUBLES {
        if random.chance(6) {
            steps.push(Step::Standby { trouble, millis: random.between(300, 7000) });
        }
    }
    for last in (1..steps.len()).rev() {
        steps.swap(last, random.below(last as u64 + 1) as usize);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{Plan, Step};

    #[test]
    fn a_seed_says_everything() {
        assert_eq!(Plan::draw(7, 30), Plan::draw(7, 30));
        assert_ne!(Plan::draw(7, 30).steps, Plan::draw(8, 30).steps);
    }

    #[test]
    fn no_failover_is_left_out() {
        let mut words: Vec<String> = Plan::draw(3, 25).steps.into_iter().map(Step::word).collect();
        words.sort();
        for word in ["Kill", "KillPostmaster", "StopFast", "Freeze", "Cut", "Live", "SwitchOver"] {
            assert!(words.iter().any(|known| known == word), "{word} in {words:?}");
        }
    }
}

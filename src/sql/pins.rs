//! Why a session cannot leave its backend: state that no other backend can be given.
//!
//! In: causes, as statements show them. Out: small sets of them. Must not know how they are found or ended.

/// State that lives in one backend only and cannot be carried to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinCause {
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A cursor WITH HOLD.
    HeldCursor,
    /// LISTEN.
    Listen,
    /// A temporary table, view or sequence, or anything else in the schema `pg_temp`.
    TempTable,
    /// A setting that cannot be set again from its text: too long, or computed.
    Setting,
    /// `nextval` or `setval`: `currval` and `lastval` remember them.
    Sequence,
    /// `setseed`: it decides the session's next random numbers.
    Seed,
    /// LOAD: a library cannot be unloaded.
    Library,
    /// PREPARE, where it is not prepared again elsewhere.
    Prepare,
}

impl PinCause {
    /// The word used in `SHOW CLIENTS`, metrics and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdvisoryLock => "advisory lock",
            Self::HeldCursor => "cursor with hold",
            Self::Listen => "listen",
            Self::TempTable => "temporary table",
            Self::Setting => "setting",
            Self::Sequence => "sequence",
            Self::Seed => "random seed",
            Self::Library => "library",
            Self::Prepare => "prepared statement",
        }
    }

    /// All causes, in the order of the bits of a [`Pins`].
    pub const ALL: [Self; 9] = [
        Self::AdvisoryLock,
        Self::HeldCursor,
        Self::Listen,
        Self::TempTable,
        Self::Setting,
        Self::Sequence,
        Self::Seed,
        Self::Library,
        Self::Prepare,
    ];
}

/// A set of causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pins(u16);

impl Pins {
    fn bit(cause: PinCause) -> u16 {
        PinCause::ALL.iter().position(|one| *one == cause).map_or(0, |at| 1 << at)
    }

    /// The set whose bits these are.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// One bit per cause, in the order of [`PinCause::ALL`].
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Adds a cause.
    pub fn insert(&mut self, cause: PinCause) {
        self.0 |= Self::bit(cause);
    }

    /// Removes a cause.
    pub fn remove(&mut self, cause: PinCause) {
        self.0 &= !Self::bit(cause);
    }

    /// Whether a cause is in it.
    pub fn contains(self, cause: PinCause) -> bool {
        self.0 & Self::bit(cause) != 0
    }

    /// True when there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All but those of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The causes in it.
    pub fn iter(self) -> impl Iterator<Item = PinCause> {
        PinCause::ALL.into_iter().filter(move |cause| self.contains(*cause))
    }
}

impl FromIterator<PinCause> for Pins {
    fn from_iter<I: IntoIterator<Item = PinCause>>(causes: I) -> Self {
        causes.into_iter().fold(Self::default(), |all, cause| all.union(cause.into()))
    }
}

impl From<PinCause> for Pins {
    fn from(cause: PinCause) -> Self {
        Self(Self::bit(cause))
    }
}

//! The ways to lose a primary.

use pgsteer::demo::node::Stop;

use super::scene::Scene;

/// How a primary is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All its processes are killed.
    Kill,
    /// A fast shutdown.
    StopFast,
    /// An immediate shutdown.
    StopImmediate,
    /// It is there and does not answer.
    Freeze,
    /// Nothing gets through to it any more: for scenes with links.
    Cut,
    /// It is not lost at all: a standby is promoted beside it.
    Live,
}

impl Loss {
    /// Strikes node 0; promotes nobody.
    pub fn strike(self, scene: &Scene) {
        let primary = scene.cluster.n(0);
        match self {
            Self::Kill => drop(primary.kill().unwrap()),
            Self::StopFast => primary.ask_to_stop(Stop::Fast).unwrap(),
            Self::StopImmediate => primary.ask_to_stop(Stop::Immediate).unwrap(),
            Self::Freeze => primary.freeze().unwrap(),
            Self::Cut => scene.links[0].cut(),
            Self::Live => {}
        }
    }
}

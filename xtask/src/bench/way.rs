//! How a VM comes up.

/// What going on from a template may cost of a boot.
pub const GOAL: f64 = 0.12;

/// How a VM comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It boots.
    Boot,
    /// It goes on from a template.
    Template,
}

impl Way {
    /// The option of `vch run`, if there is one.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Boot => None,
            Self::Template => Some("--from-template"),
        }
    }
}

//! When to begin anew on a line that loses bytes, or falls silent: what was said last may be lost, and nobody would ever know.

use std::time::{Duration, Instant};

/// How long to wait at first.
const FIRST: Duration = Duration::from_secs(2);
/// And at most. It grows, for the other side may only be slow, or away.
const LONGEST: Duration = Duration::from_secs(32);

/// How long one end has waited for the other's word. It is told the time.
#[derive(Debug)]
pub struct Patience {
    first: Duration,
    wait: Duration,
    end: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(FIRST)
    }
}

impl Patience {
    /// One that waits so long at first.
    pub fn of(first: Duration) -> Self {
        Self { first, wait: first, end: None }
    }

    /// To be asked whenever something may have happened. Whether it is time for [`Link::resync`](crate::Link::resync): something
    /// is [unacknowledged](crate::Link::unacknowledged), and nothing has `moved` for a while (greetings do not count, or the waits
    /// would not grow).
    pub fn is_over(&mut self, now: Instant, moved: bool, unacknowledged: bool) -> bool {
        if moved || !unacknowledged {
            *self = Self::of(self.first);
        }
        if !unacknowledged {
            return false;
        }
        let end = *self.end.get_or_insert(now + self.wait);
        if now < end {
            return false;
        }
        self.wait = (self.wait * 2).min(LONGEST);
        self.end = Some(now + self.wait);
        true
    }

    /// When to ask again, whatever happens.
    pub fn end(&self) -> Option<Instant> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_nothing_moves_and_grows() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!patience.is_over(at(0), false, false) && patience.end().is_none());
        assert!(!patience.is_over(at(0), false, true));
        assert_eq!(patience.end(), Some(at(2)));
        assert!(!patience.is_over(at(1), true, true), "something moved");
        assert!(!patience.is_over(at(2), false, true));
        let over: Vec<_> = (3..100).filter(|second| patience.is_over(at(*second), false, true)).collect();
        assert_eq!(over, [3, 7, 15, 31, 63, 95]);
        assert!(!patience.is_over(at(100), false, false));
        assert!(!patience.is_over(at(100), false, true));
        assert_eq!(patience.end(), Some(at(102)));
    }
}

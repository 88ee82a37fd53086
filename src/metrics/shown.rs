//! Which sessions have series of their own. Pure.

use std::collections::BTreeSet;

/// At most so many sessions have series, each until it ends: series that come and go tell nothing.
#[derive(Debug, Default)]
pub struct Shown(BTreeSet<String>);

impl Shown {
    /// Takes out what has ended, then fills up with the first of those that live, in their order.
    pub fn choose<'a>(&mut self, living: impl Iterator<Item = &'a str> + Clone, most: usize) {
        let there: BTreeSet<&str> = living.clone().collect();
        self.0.retain(|key| there.contains(key.as_str()));
        for key in living {
            if self.0.len() >= most {
                break;
            }
            if !self.0.contains(key) {
                self.0.insert(key.to_owned());
            }
        }
    }

    /// Whether this session has series.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(shown: &mut Shown, living: &[&str], most: usize) -> Vec<String> {
        shown.choose(living.iter().copied(), most);
        shown.0.iter().cloned().collect()
    }

    #[test]
    fn a_session_keeps_its_series_until_it_ends() {
        let mut shown = Shown::default();
        assert_eq!(chosen(&mut shown, &["m", "n"], 2), ["m", "n"]);
        assert_eq!(chosen(&mut shown, &["a", "m", "n", "z"], 2), ["m", "n"], "what comes later takes no place");
        assert_eq!(chosen(&mut shown, &["a", "n", "z"], 2), ["a", "n"], "a place that is free is taken");
        assert_eq!(chosen(&mut shown, &["a", "n", "z"], 3), ["a", "n", "z"]);
        assert_eq!(chosen(&mut shown, &["a", "n", "z"], 1), ["a", "n", "z"], "a lower cap holds for those that come");
        assert_eq!(chosen(&mut shown, &["z"], 1), ["z"]);
        assert_eq!(chosen(&mut shown, &["z"], 0), ["z"]);
        assert!(shown.has("z") && !shown.has("a"));
    }
}

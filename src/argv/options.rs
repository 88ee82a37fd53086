//! Skips the options of a launcher, to find what it launches.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// The options before the first operand, and the operands.
pub(super) struct Options<'a> {
    given: Vec<(&'a str, &'a str)>,
    /// What follows the options: the first is the operand that ended them (a `--` is skipped).
    pub(super) operands: &'a [String],
}

impl<'a> Options<'a> {
    /// Reads options up to the first operand or `--`. `valued` lists the spellings that take the next word as their
    /// value; all others stand alone, or carry their value after `=`.
    pub(super) fn read(words: &'a [String], valued: &[&str]) -> Self {
        let mut given = Vec::new();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            if word == "--" {
                break;
            }
            if !word.starts_with('-') || word == "-" {
                at -= 1;
                break;
            }
            match word.split_once('=') {
                Some(pair) => given.push(pair),
                None if valued.contains(&word.as_str()) => {
                    given.push((word, words.get(at).map_or("", String::as_str)));
                    at += 1;
                }
                None => given.push((word, "")),
            }
        }
        Self { given, operands: words.get(at..).unwrap_or_default() }
    }

    /// The value of the last of these spellings that was given.
    pub(super) fn value(&self, spellings: &[&str]) -> Option<&'a str> {
        let of_these = |(flag, _): &&(&str, &str)| spellings.contains(flag);
        self.given.iter().rev().find(of_these).map(|(_, value)| *value).filter(|value| !value.is_empty())
    }

    /// Whether one of these spellings was given.
    pub(super) fn has(&self, spellings: &[&str]) -> bool {
        self.given.iter().any(|(flag, _)| spellings.contains(flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_end_at_the_first_operand_or_two_dashes() {
        for (line, operands) in [
            ("-y pkg -x", &["pkg", "-x"][..]),
            ("-p val pkg", &["pkg"]),
            ("--p=val pkg", &["pkg"]),
            ("-y -- -odd", &["-odd"]),
            ("- x", &["-", "x"]),
            ("-p", &[]),
            ("-y", &[]),
        ] {
            assert_eq!(Options::read(&words(line), &["-p"]).operands, operands, "{line}");
        }
    }

    #[test]
    fn a_value_is_had_from_the_next_word_or_after_the_equals_sign() {
        let line = words("-p one --package=two --bare x");
        let options = Options::read(&line, &["-p"]);
        assert_eq!(options.value(&["-p"]), Some("one"));
        assert_eq!(options.value(&["-p", "--package"]), Some("two"), "the last one counts");
        assert_eq!(options.value(&["--bare"]), None);
        assert!(options.has(&["--bare"]) && !options.has(&["-b"]));
    }
}

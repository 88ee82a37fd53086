//! What is written down is so: the README's promises have their tests, and its options and causes exist.

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The words in back quotes of a table's last or first column.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_promise_of_the_readme_names_a_test_that_exists() {
    let readme = read("README.md");
    let mut sources = String::new();
    for ring in ["tests/kernel", "tests/systemd"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(ring)).unwrap() {
            sources.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
        }
    }
    let start = readme.find("| promise | test |").expect("the table of promises");
    let rows: Vec<&str> = readme[start..].lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let test = *quoted(row).last().unwrap_or_else(|| panic!("no test in {row}"));
        assert!(sources.contains(&format!("fn {test}()")), "no test of these rings is called {test}");
    }
}

#[test]
fn every_cause_is_in_the_readme() {
    let readme = read("README.md");
    let start = readme.find("| cause | the fact behind it |").expect("the table of causes");
    let written: Vec<&str> = readme[start..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| quoted(row).into_iter().take(1))
        .collect();
    let outcome = read("src/outcome.rs");
    // `launch_failed` is the end of what never was a server.
    let words: Vec<&str> = outcome
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.strip_suffix("\","))
        .filter(|word| !["server", "session", "machine", "outside", "launch_failed"].contains(word))
        .collect();
    assert_eq!(written, words);
}

//! What differs between two texts, line by line, as it is kept beside the recordings.

use std::fmt::Write;

/// The lines that only one of them has: `-` of the first, `+` of the second, each run after the line before it (`@`). Empty
/// where nothing differs.
pub fn delta(first: &str, second: &str) -> String {
    let (first, second): (Vec<_>, Vec<_>) = (first.lines().collect(), second.lines().collect());
    let common = common(&first, &second);
    let (mut text, mut a, mut b, mut before, mut differs) = (String::new(), 0, 0, "", false);
    while a < first.len() || b < second.len() {
        if a < first.len() && b < second.len() && first[a] == second[b] {
            (before, differs) = (first[a], false);
            (a, b) = (a + 1, b + 1);
            continue;
        }
        if !differs {
            let _ = writeln!(text, "@{before}");
            differs = true;
        }
        if b == second.len() || (a < first.len() && common[a + 1][b] >= common[a][b + 1]) {
            let _ = writeln!(text, "-{}", first[a]);
            a += 1;
        } else {
            let _ = writeln!(text, "+{}", second[b]);
            b += 1;
        }
    }
    text
}

/// How many lines the rests of both have in common, by where the rests begin.
fn common(first: &[&str], second: &[&str]) -> Vec<Vec<usize>> {
    let mut common = vec![vec![0; second.len() + 1]; first.len() + 1];
    for a in (0..first.len()).rev() {
        for b in (0..second.len()).rev() {
            common[a][b] =
                if first[a] == second[b] { common[a + 1][b + 1] + 1 } else { common[a + 1][b].max(common[a][b + 1]) };
        }
    }
    common
}

#[test]
fn a_delta_has_what_only_one_has() {
    assert_eq!(delta("a\nb\n", "a\nb\n"), "");
    assert_eq!(delta("a\nb\nc\n", "a\nx\nc\nd\n"), "@a\n-b\n+x\n@c\n+d\n");
    assert_eq!(delta("", "a\n"), "@\n+a\n");
}

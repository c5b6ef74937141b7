//! The word that was probably meant.

/// The candidate that is a few keystrokes away from `word`, if one is
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    let reach = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A list for people: `a`, `b` or `c`
pub(super) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match (words.pop(), words.as_slice()) {
        (None, _) => "nothing".to_owned(),
        (Some(only), []) => only,
        (Some(last), rest) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one into the other
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // A long word is near no key, and must not cost time.
    if a.len().abs_diff(b.len()) > 4 {
        return usize::MAX;
    }
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
            let mut best = at(&last, j).saturating_add(usize::from(x != y));
            best = best.min(at(&last, j + 1).saturating_add(1));
            best = best.min(at(&row, j).saturating_add(1));
            if i > 0 && j > 0 && a.get(i - 1) == Some(&y) && b.get(j - 1) == Some(&x) {
                best = best.min(at(&before, j - 1).saturating_add(1));
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_key() {
        let keys = ["challenge", "contact", "dir", "files", "issuer", "key", "names"];
        let cases = [
            ("nmaes", Some("names")),
            ("name", Some("names")),
            ("Issuers", Some("issuer")),
            ("chalenge", Some("challenge")),
            ("file", Some("files")),
            ("xyz", None),
            ("", None),
            ("certificates", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
    }

    #[test]
    fn a_list_reads_like_a_sentence() {
        assert_eq!(one_of(["a"]), "`a`");
        assert_eq!(one_of(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}

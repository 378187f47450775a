//! Text from files and guests, fit to be shown.

/// Longest text that is taken over into a message, in characters.
const LENGTH_MAX: usize = 400;

/// At most `max` characters of `text`, with spaces for what moves a cursor or turns the direction of writing: nothing
/// that a guest says can forge a line of a log.
pub fn visible(text: &str, max: usize) -> String {
    let acts = |c: char| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(max).map(|c| if acts(c) { ' ' } else { c }).collect()
}

/// One short line. Libraries quote at length what they could not read.
pub fn one_line(text: &str) -> String {
    let line = visible(text, 4 * LENGTH_MAX).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_forge_a_log_line_is_taken_out() {
        assert_eq!(one_line("a\n\x1b[31mb\t c \u{202e}d "), "a [31mb c d");
        assert_eq!(one_line(&"ä".repeat(1000)).chars().count(), LENGTH_MAX + 1);
    }
}

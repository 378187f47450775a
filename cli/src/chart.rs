//! A bar chart as SVG, which follows the light or dark scheme of whoever looks at it.

use std::fmt::Write as _;

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    /// Behind the label, smaller.
    pub(crate) note: String,
    /// Length; `None` for what has none, which fills the width.
    pub(crate) value: Option<f64>,
}

/// What is drawn.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) unit: &'static str,
    /// Bars shorter than this are marked.
    pub(crate) mark_below: f64,
    /// What the mark means.
    pub(crate) mark: &'static str,
    pub(crate) bars: Vec<Bar>,
}

const WIDTH: usize = 1000;
const LEFT: usize = 390;
const RIGHT: usize = 90;
const TOP: usize = 108;
const ROW: usize = 24;
/// Characters of a label that fit beside the bars.
const LABEL: usize = 30;
const NOTE: usize = 18;

/// Colours as custom properties, so that the dark scheme changes nothing else. Contrast of text is at least 4.5.
const STYLE: &str = "\
svg{--paper:#fff;--ink:#1f2937;--soft:#5b6472;--line:#e3e6ea;--good:#0d6e5c;--low:#c2410c;background:var(--paper);\
font:13px Inter,system-ui,sans-serif}\
@media(prefers-color-scheme:dark){svg{--paper:#14181d;--ink:#e6e9ed;--soft:#a2abb8;--line:#2c333c;--good:#3fb79e;\
--low:#f08a4b}}\
.paper{fill:var(--paper)}text{fill:var(--ink)}.soft{fill:var(--soft);font-size:11px}.title{font-size:18px;\
font-weight:600}.good{fill:var(--good)}.low{fill:var(--low)}.line{stroke:var(--line)}.limit{stroke:var(--low);\
stroke-dasharray:4 4}.value{font-variant-numeric:tabular-nums}";

impl Chart {
    /// The picture as text.
    pub(crate) fn to_svg(&self) -> String {
        let step = 10.0;
        let longest = self.bars.iter().filter_map(|b| b.value).fold(self.mark_below, f64::max);
        let end = ((longest / step).ceil() * step).max(step);
        let span = (WIDTH - LEFT - RIGHT) as f64;
        let x = |value: f64| LEFT as f64 + span * (value / end).clamp(0.0, 1.0);
        let bottom = TOP + ROW * self.bars.len();
        let height = bottom + 52;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" aria-labelledby=\"title about\">\n<title id=\"title\">{}</title>\n\
             <desc id=\"about\">{}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"24\" y=\"38\">{}</text>\n<text class=\"soft\" x=\"24\" y=\"60\">{}</text>\n",
            escaped(&self.title),
            escaped(&self.subtitle),
            escaped(&self.title),
            escaped(&self.subtitle),
        );
        for tick in 0..=(end / step) as usize {
            let (value, at) = (tick as f64 * step, x(tick as f64 * step));
            let _ = writeln!(
                svg,
                "<line class=\"line\" x1=\"{at:.1}\" y1=\"{}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>\
                 <text class=\"soft\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.0}</text>",
                TOP - 6,
                TOP - 12,
            );
        }
        for (row, bar) in self.bars.iter().enumerate() {
            self.bar(&mut svg, bar, TOP + ROW * row, &x, end);
        }
        let limit = x(self.mark_below);
        let _ = writeln!(
            svg,
            "<line class=\"limit\" x1=\"{limit:.1}\" y1=\"{}\" x2=\"{limit:.1}\" y2=\"{}\"/>\
             <text class=\"soft\" x=\"{limit:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n</svg>",
            TOP - 6,
            bottom + 8,
            bottom + 24,
            escaped(self.mark),
        );
        svg
    }

    fn bar(&self, svg: &mut String, bar: &Bar, y: usize, x: &impl Fn(f64) -> f64, end: f64) {
        let class = if bar.value.is_some_and(|v| v < self.mark_below) { "low" } else { "good" };
        let (from, to) = (x(0.0), x(bar.value.unwrap_or(end)));
        let value = bar.value.map_or("exact".to_owned(), |v| format!("{v:.1} {}", self.unit));
        let _ = writeln!(
            svg,
            "<g><title>{full} ({note}): {value}</title><text x=\"24\" y=\"{base}\">{label}</text>\
             <text class=\"soft\" x=\"{note_at}\" y=\"{base}\" text-anchor=\"end\">{short}</text>\
             <rect class=\"{class}\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{thick}\" rx=\"2\"/>\
             <text class=\"value\" x=\"{value_at:.1}\" y=\"{base}\">{value}</text></g>",
            full = escaped(&bar.label),
            note = escaped(&bar.note),
            short = escaped(&shortened(&bar.note, NOTE)),
            label = escaped(&shortened(&bar.label, LABEL)),
            base = y + ROW - 8,
            note_at = LEFT - 10,
            top = y + 4,
            width = (to - from).max(1.0),
            thick = ROW - 8,
            value_at = to + 8.0,
        );
    }
}

/// At most so many characters, with a sign where some were left out.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no form for control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_model_cannot_break_out_of_the_picture() {
        let bar = |label: &str, value| Bar { label: label.to_owned(), note: "Conv, Relu".to_owned(), value };
        let chart = Chart {
            title: "Error <by> layer".to_owned(),
            subtitle: "8 samples".to_owned(),
            unit: "dB",
            mark_below: 20.0,
            mark: "1 % noise",
            bars: vec![bar("</text><script>\"&\u{1}", Some(41.25)), bar("low", Some(-3.0)), bar("same", None)],
        };
        let svg = chart.to_svg();
        assert!(!svg.contains("<script>") && svg.contains("&lt;/text&gt;&lt;script&gt;&quot;&amp;\u{fffd}"), "{svg}");
        assert_eq!((svg.matches("class=\"low\"").count(), svg.matches("class=\"good\"").count()), (1, 2));
        assert!(svg.contains("41.2 dB") && svg.contains(">exact<"), "{svg}");
        assert_eq!(svg.matches("<g>").count(), 3);
        assert_eq!(shortened("abcdef", 4), "abc…");
    }
}

//! Files that pages need, compiled in. Their addresses hold their hash, so that browsers may keep them for ever.

use sedge_protocol::Sha256Digest;

/// A file.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
    /// Whether the login page needs it; the rest is for those who are signed in.
    pub(super) public: bool,
}

const CSS: &Asset = &Asset {
    name: "console.css",
    content_type: "text/css; charset=utf-8",
    bytes: include_bytes!("../../console/assets/console.css"),
    public: true,
};
const ICON: &Asset = &Asset {
    name: "icon.svg",
    content_type: "image/svg+xml",
    bytes: include_bytes!("../../console/assets/icon.svg"),
    public: true,
};
const HTMX: &Asset = &Asset {
    name: "htmx.js",
    content_type: "text/javascript; charset=utf-8",
    bytes: include_bytes!("../../console/assets/htmx-2.0.11.min.js"),
    public: false,
};
const LIVE: &Asset = &Asset {
    name: "live.js",
    content_type: "text/javascript; charset=utf-8",
    bytes: include_bytes!("../../console/assets/live.js"),
    public: false,
};
const ALL: [&Asset; 4] = [CSS, ICON, HTMX, LIVE];

/// Addresses of the files.
#[derive(Debug, Clone)]
pub(super) struct Assets {
    pub(super) css: String,
    pub(super) icon: String,
    pub(super) htmx: String,
    pub(super) live: String,
}

impl Assets {
    pub(super) fn new() -> Self {
        let at = |asset: &Asset| format!("/assets/{}/{}", version(asset), asset.name);
        Self { css: at(CSS), icon: at(ICON), htmx: at(HTMX), live: at(LIVE) }
    }
}

fn version(asset: &Asset) -> String {
    Sha256Digest::of(asset.bytes).short()
}

/// The file at this address.
pub(super) fn find(hash: &str, name: &str) -> Option<&'static Asset> {
    ALL.into_iter().find(|asset| asset.name == name && version(asset) == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_what_they_published() {
        let notice = include_str!("../../console/assets/NOTICE");
        assert!(notice.contains(&Sha256Digest::of(HTMX.bytes).hex()), "htmx differs from its NOTICE");
        assert!(notice.contains("0BSD"));
    }

    #[test]
    fn an_address_names_one_content() {
        let assets = Assets::new();
        let parts: Vec<_> = assets.css.split('/').collect();
        assert_eq!(find(parts[2], parts[3]).map(|asset| asset.name), Some("console.css"));
        assert!(find("0", "console.css").is_none() && find(parts[2], "live.js").is_none());
    }

    #[test]
    fn no_file_names_another_host_or_needs_eval() {
        for asset in [CSS, LIVE] {
            let text = String::from_utf8_lossy(asset.bytes);
            assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("eval("), "{}", asset.name);
        }
    }

    /// The colour of a name, `#rrggbb`.
    fn colour(sheet: &str, name: &str) -> [f64; 3] {
        let value = sheet.split(&format!("--{name}: #")).nth(1).unwrap_or_else(|| panic!("no colour {name}"));
        let hex = value.split(';').next().expect("a value");
        let hex: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.to_owned() };
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")) / 255.0)
    }

    /// Source: WCAG 2.2, "relative luminance" and "contrast ratio".
    fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        let luminance = |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn light_and_dark_can_be_read() {
        let css = String::from_utf8_lossy(CSS.bytes);
        let (light, rest) = css.split_once("@media (prefers-color-scheme: dark)").expect("both");
        for sheet in [light, rest] {
            let check = |front: &str, back: &str, ratio: f64| {
                let found = contrast(colour(sheet, front), colour(sheet, back));
                assert!(found >= ratio, "{front} on {back}: {found:.2}, needs {ratio}");
            };
            for back in ["ground", "card", "quiet-wash"] {
                for text in ["ink", "soft"] {
                    check(text, back, 4.5);
                }
            }
            check("card", "brand", 4.5);
            for tone in ["good", "busy", "waiting", "bad", "quiet"] {
                check(tone, "card", 4.5);
                check(tone, "ground", 4.5);
                check(tone, &format!("{tone}-wash"), 4.5);
                check("on-mark", tone, 3.0);
                check("ink", &format!("{tone}-wash"), 4.5);
            }
            for hue in ["r0", "r1", "r2", "r3", "r4", "rx"] {
                check(hue, "card", 3.0);
                check("on-mark", hue, 3.0);
            }
            for line in ["line-strong", "focus"] {
                check(line, "card", 3.0);
                check(line, "ground", 3.0);
            }
        }
    }
}

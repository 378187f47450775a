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
}

//! What to fetch, and how files are called.

use super::error::Role;

/// A metadata file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose.
    pub role: Role,
    /// Version to ask for, where files are named by version.
    pub version: Option<u64>,
    /// Read no more bytes than this.
    pub bytes_max: u64,
}

impl Request {
    /// Name of the file on the repository, with everything escaped that could leave its directory or its URL.
    pub fn file_name(&self) -> String {
        match self.version {
            Some(version) => format!("{version}.{}", file_name(&self.role)),
            None => file_name(&self.role),
        }
    }
}

/// Name of a role's file, safe as a file name and in a URL whatever the role is called.
pub fn file_name(role: &Role) -> String {
    let mut out = String::new();
    for byte in role.name().bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out + ".json"
}

-- Who may do what: projects, devices and their certificates, tokens, and who did what. Times are seconds since 1970.
-- Written so that PostgreSQL needs only other names of types.

CREATE TABLE project (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE device (
    project           TEXT    NOT NULL REFERENCES project (name),
    id                TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
    enrolled_at       INTEGER NOT NULL,
    serial            TEXT    NOT NULL,
    not_after         INTEGER NOT NULL,
    last_seen         INTEGER,
    decommissioned_at INTEGER,
    PRIMARY KEY (project, id)
) STRICT;

-- Every certificate of a device that has not expired: decommissioning denies them all.
CREATE TABLE certificate (
    serial    TEXT    NOT NULL PRIMARY KEY CHECK (length(serial) BETWEEN 1 AND 40),
    project   TEXT    NOT NULL,
    device    TEXT    NOT NULL,
    not_after INTEGER NOT NULL,
    FOREIGN KEY (project, device) REFERENCES device (project, id)
) STRICT;
CREATE INDEX certificate_of_device ON certificate (project, device);

-- The secret itself is not stored. What answered a device is, so that the same device may ask again.
CREATE TABLE enrolment_token (
    hash        BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    project     TEXT    NOT NULL REFERENCES project (name),
    device      TEXT,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    used_at     INTEGER,
    used_by     TEXT,
    key_digest  BLOB,
    certificate BLOB
) STRICT;
CREATE INDEX enrolment_token_expiry ON enrolment_token (project, expires_at);

CREATE TABLE api_token (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    name       TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    scope      TEXT    NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used  INTEGER
) STRICT;

CREATE TABLE denied_serial (
    serial    TEXT    NOT NULL PRIMARY KEY,
    denied_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL
) STRICT;

-- Who may look at the console. Of every secret only the hash is kept. Times are seconds since 1970.

-- Opens one session. A link that was used is remembered until it would have expired and a day more, so that it is called
-- used and not unknown.
CREATE TABLE console_link (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    name       TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    scope      TEXT    NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER
) STRICT;

CREATE TABLE console_session (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    name       TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    scope      TEXT    NOT NULL CHECK (scope IN ('read', 'operate', 'admin')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used  INTEGER NOT NULL
) STRICT;

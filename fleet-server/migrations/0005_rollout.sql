-- Rollouts: what was declared and planned, where each is, and what happened. Times are Unix milliseconds.

CREATE TABLE rollout (
    -- Grows, so that history can be paged newest first.
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    component  TEXT    NOT NULL,
    bundle     TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    -- The plan, with the declaration and the salt in it; never changed.
    plan       TEXT    NOT NULL,
    -- All of its state but the devices; written with every step.
    core       TEXT    NOT NULL,
    -- Name of the state, and whether it may still change.
    state      TEXT    NOT NULL,
    active     INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    ended_ms   INTEGER,
    UNIQUE (project, id)
) STRICT;
CREATE INDEX rollout_active ON rollout (active, project, component);

-- Devices that are not as they were planned.
CREATE TABLE rollout_device (
    rollout INTEGER NOT NULL REFERENCES rollout,
    -- Its place in the plan, and after those in the order of joining.
    number  INTEGER NOT NULL,
    row     TEXT    NOT NULL,
    PRIMARY KEY (rollout, number)
) STRICT, WITHOUT ROWID;

-- What happened, in order; only appended to.
CREATE TABLE rollout_note (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    rollout INTEGER NOT NULL REFERENCES rollout,
    at_ms   INTEGER NOT NULL,
    note    TEXT    NOT NULL
) STRICT;
CREATE INDEX rollout_note_of ON rollout_note (rollout, seq);

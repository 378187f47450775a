-- What the fleet part of the server knows. Times are Unix seconds, but for ..._ms.

-- A project begins with the publisher's first root, which never changes: enrolment tokens pin it.
CREATE TABLE fleet_project (
    project TEXT PRIMARY KEY NOT NULL,
    -- Versions of the newest publisher metadata that are complete and were valid together; 0 before the first.
    root_version INTEGER NOT NULL DEFAULT 1,
    timestamp_version INTEGER NOT NULL DEFAULT 0,
    snapshot_version INTEGER NOT NULL DEFAULT 0,
    targets_version INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What the publisher signed, as it came.
CREATE TABLE publisher_file (
    project TEXT NOT NULL REFERENCES fleet_project,
    role TEXT NOT NULL,
    version INTEGER NOT NULL,
    file BLOB NOT NULL,
    PRIMARY KEY (project, role, version)
) STRICT;

CREATE TABLE director_root (
    project TEXT NOT NULL REFERENCES fleet_project,
    version INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    file BLOB NOT NULL,
    PRIMARY KEY (project, version)
) STRICT;

-- What a device is to run now, and what is signed for it. `generation` and `timestamp_version` only grow; every writer
-- states those it read, so that no number is given out twice.
CREATE TABLE director_device (
    project TEXT NOT NULL REFERENCES fleet_project,
    device TEXT NOT NULL,
    generation INTEGER NOT NULL,
    assignments TEXT NOT NULL,
    snapshot_version INTEGER NOT NULL,
    timestamp_version INTEGER NOT NULL,
    due INTEGER NOT NULL,
    root_version INTEGER NOT NULL,
    targets BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    timestamp BLOB NOT NULL,
    PRIMARY KEY (project, device)
) STRICT;
CREATE INDEX director_device_due ON director_device (due);

-- What it was to run before: where going back goes to.
CREATE TABLE director_history (
    project TEXT NOT NULL,
    device TEXT NOT NULL,
    generation INTEGER NOT NULL,
    assignments TEXT NOT NULL,
    actor TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (project, device, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact (
    project TEXT NOT NULL REFERENCES fleet_project,
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    manifest_bytes INTEGER NOT NULL,
    packed_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    -- The encoded chunk index.
    chunk_index BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (project, digest)
) STRICT;

-- Chunks are shared by all bundles of all projects; the digest is that of the content before compression.
CREATE TABLE chunk (
    sha256 BLOB PRIMARY KEY NOT NULL,
    length_bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Reports of the past, the newest of each component among them; the key ignores repetitions.
CREATE TABLE reported (
    project TEXT NOT NULL,
    device TEXT NOT NULL,
    component TEXT NOT NULL,
    generation INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    report TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (project, device, component, generation, attempt, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    project TEXT NOT NULL,
    device TEXT NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    event TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (project, device, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_received ON event (project, device, received_ms);

CREATE TABLE status (
    project TEXT NOT NULL,
    device TEXT NOT NULL,
    status TEXT NOT NULL,
    online INTEGER NOT NULL,
    -- Whether the device is set to JSON.
    json INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (project, device)
) STRICT, WITHOUT ROWID;

-- How models fare on devices: the newest heartbeat of each, and the counters of the bundles that it ran, as JSON.
CREATE TABLE field (
    project TEXT NOT NULL,
    device TEXT NOT NULL,
    state TEXT NOT NULL,
    heard_ms INTEGER NOT NULL,
    PRIMARY KEY (project, device)
) STRICT, WITHOUT ROWID;

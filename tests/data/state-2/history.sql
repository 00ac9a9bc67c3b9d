BEGIN TRANSACTION;
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,               -- import, install, delete, ...
    uuid TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    pool TEXT NOT NULL,
    source TEXT,                        -- a URL without secrets; NULL for a local file
    client TEXT NOT NULL, uid INTEGER,  -- NULL: the daemon itself
    started_at REAL NOT NULL,           -- seconds since the epoch
    bytes INTEGER,                      -- of the image's file
    seconds REAL,                       -- that it took; NULL: not ended, or interrupted
    outcome TEXT,                       -- NULL: not ended
    code TEXT, message TEXT,            -- of the error
    import_id TEXT                      -- in every line that the log has of it
);
INSERT INTO "history" VALUES(1,'install','55555555-aaaa-4bbb-8ccc-000000000001','tiny','1.0.0','zones',NULL,'imgctl 0.1.0 (pid 2337)',0,1.7958878753258943557e+09,10064,0.039,'installed',NULL,NULL,'bb828048');
INSERT INTO "history" VALUES(2,'import','11111111-aaaa-4bbb-8ccc-000000000001','base','1.0.0','zones','http://127.0.0.1:38311','imgctl 0.1.0 (pid 2340)',0,1795887875.45122,1306624,4.343,'interrupted','Cancelled','imgstored is stopping','6be78dfe');
CREATE INDEX history_uuid ON history (uuid);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('history',2);
COMMIT;
PRAGMA user_version = 2;

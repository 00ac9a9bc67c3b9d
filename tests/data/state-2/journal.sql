BEGIN TRANSACTION;
CREATE TABLE imports (
    pool TEXT NOT NULL, uuid TEXT NOT NULL,
    manifest TEXT NOT NULL,             -- v2, JSON: names the import to people until it is found again
    sources TEXT,                       -- JSON array of URLs instead of the configured ones, or NULL
    channel TEXT,
    wanted INTEGER NOT NULL,            -- 1: goes on by itself after a restart; 0: until the next who asks
    started_at REAL NOT NULL,           -- seconds since the epoch
    touched_at REAL NOT NULL,
    zstream INTEGER NOT NULL DEFAULT 0, -- 1: of the file nothing is compared with the manifest
    PRIMARY KEY (pool, uuid)
) WITHOUT ROWID;
INSERT INTO "imports" VALUES('zones','11111111-aaaa-4bbb-8ccc-000000000001','{"v": 2, "uuid": "11111111-aaaa-4bbb-8ccc-000000000001", "owner": "00000000-0000-0000-0000-000000000000", "name": "base", "version": "1.0.0", "state": "active", "disabled": false, "public": true, "published_at": "2026-11-24T00:00:01.000Z", "type": "zone-dataset", "os": "smartos", "description": "A zone file system: small and large files, links, a sparse file, a device node, Unicode names.", "files": [{"sha1": "4225e44835795df43017e20991de1c59203a6363", "size": 1851100, "compression": "gzip"}]}',NULL,NULL,1,1.79588787545015811917e+09,1.79588787545015811917e+09,0);
CREATE TABLE ranges (
    uuid TEXT NOT NULL, idx INTEGER NOT NULL, blake3 BLOB NOT NULL, PRIMARY KEY (uuid, idx)
) WITHOUT ROWID;
INSERT INTO "ranges" VALUES('zones-11111111-aaaa-4bbb-8ccc-000000000001',0,X'B92976F65932C3122E8741D3C7A84F63ACF0AB67B4408D0FB1506F43D668F091');
CREATE TABLE spools (
    uuid TEXT PRIMARY KEY, size INTEGER NOT NULL, range_size INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "spools" VALUES('zones-11111111-aaaa-4bbb-8ccc-000000000001',1851100,1048576);
CREATE TABLE validators (
    uuid TEXT NOT NULL, url TEXT NOT NULL, validator TEXT NOT NULL, PRIMARY KEY (uuid, url)
) WITHOUT ROWID;
INSERT INTO "validators" VALUES('zones-11111111-aaaa-4bbb-8ccc-000000000001','http://127.0.0.1:38311/11111111-aaaa-4bbb-8ccc-000000000001/file','"6b0b1302-1c3edc"');
COMMIT;
PRAGMA user_version = 2;

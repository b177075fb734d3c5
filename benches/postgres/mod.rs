//! A PostgreSQL server of the measurement's own, and a store in it whose rows the server makes up: ten million
//! in a minute or two, where each as a change of its own would take days.

#[path = "../../tests/it/harness/cluster.rs"]
#[expect(dead_code, clippy::panic, reason = "it is the tests' own, and some of it is for them alone")]
mod cluster;

use std::sync::Arc;

use keyward::store::{Address, PostgresSettings, PostgresStore, SharedStore};

use self::cluster::{Care, Cluster};

/// The server.
pub(crate) struct Server {
    cluster: Cluster,
}

impl Server {
    /// Starts it, as quick as it goes: nothing that it holds is worth anything.
    pub(crate) fn start() -> crate::Outcome<Self> {
        let settings = ["shared_buffers=512MB", "max_wal_size=8GB", "maintenance_work_mem=256MB"];
        let cluster =
            Cluster::start_with(Care::Fast, &cluster::programs(), |_data| settings.map(str::to_owned).to_vec());
        Ok(Self { cluster })
    }

    /// A store of so many keys, those of `crate::key` but for their ids.
    pub(crate) fn filled(&self, size: u32) -> crate::Outcome<SharedStore> {
        let settings = PostgresSettings::new(Address::parse(&self.cluster.url())?);
        let (store, _made) = PostgresStore::create(&settings)?;
        // Rows only: all else is what takes the time.
        self.cluster.sql(
            "DO $$ DECLARE it record; BEGIN \
             FOR it IN SELECT conname FROM pg_constraint WHERE conrelid = 'keyward.keys'::regclass \
             AND contype IN ('p', 'u') LOOP \
             EXECUTE format('ALTER TABLE keyward.keys DROP CONSTRAINT %I', it.conname); END LOOP; \
             FOR it IN SELECT indexrelid::regclass AS name FROM pg_index WHERE indrelid = 'keyward.keys'::regclass LOOP \
             EXECUTE format('DROP INDEX %s', it.name); END LOOP; END $$; \
             ALTER TABLE keyward.keys SET UNLOGGED",
        );
        let half = size / 2;
        std::thread::scope(|scope| {
            scope.spawn(|| self.cluster.sql(&rows(0, half)));
            self.cluster.sql(&rows(half, size));
        });
        self.cluster.sql("VACUUM ANALYZE keyward.keys");
        self.cluster.sql(
            "UPDATE keyward.counter SET revision = 1, commit_id = gen_random_uuid(); \
             INSERT INTO keyward.revisions SELECT revision, commit_id, 0 FROM keyward.counter",
        );
        Ok(Arc::new(store))
    }
}

/// Makes the rows of these numbers.
fn rows(first: u32, end: u32) -> String {
    format!(
        "INSERT INTO keyward.keys (id, lineage, hash, format, name, project, environment, inherit, flags, props, \
         may_grant, operates, self_rotate, revoked, disabled, superseded, expires_at, webhook_secret_version, \
         created_at, updated_at, revision, ordinal) \
         SELECT id, id, sha512(int4send(n)), 'imported', 'key ' || n, 'project-' || n % 100, \
         (ARRAY['live', 'test'])[n % 2 + 1], false, 'jobs:read keyring.ring-' || n % 50 || '.read', '{{}}', '', false, \
         false, false, false, false, 2000000000000000000, 1, at, at, 1, n \
         FROM (SELECT n, md5(n::text)::uuid AS id, 1700000000000000000 + n * 1000000000::bigint AS at \
         FROM generate_series({first}, {end} - 1) AS n OFFSET 0) AS made"
    )
}

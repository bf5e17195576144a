//! The judge of writes: whatever was acknowledged is there exactly once, whatever was refused is not.

use std::time::Duration;

use pgsteer::demo::load::{Ledger, Load, TABLE_SQL};
use pgsteer::demo::node::Node;
use pgsteer::drain::Tasks;
use tokio_postgres::Config;

use super::{LIMIT, eventually};

/// A running load.
pub struct Oracle {
    /// Its books.
    pub ledger: Ledger,
    tasks: Tasks,
}

impl Oracle {
    /// Makes the table on `primary` and starts the clients.
    pub async fn start(primary: &Node, write_to: &Config, read_from: &Config, clients: [usize; 2]) -> Self {
        let mut sql = primary.sql_in("app").await.unwrap();
        sql.run(&format!("SET ROLE app; {TABLE_SQL}")).await.unwrap();
        let tasks = Tasks::new();
        let load = Load {
            write_to: write_to.clone(),
            read_from: read_from.clone(),
            writers: clients[0],
            readers: clients[1],
            pause: Duration::from_millis(2),
        };
        let ledger = load.start(&tasks).await.unwrap();
        Self { ledger, tasks }
    }

    /// Waits until that many more writes are acknowledged.
    pub async fn more_writes(&self, count: u64) {
        let target = self.ledger.summary().acknowledged + count;
        let what = format!("{target} acknowledged writes");
        eventually(&what, async || self.ledger.summary().acknowledged >= target).await;
    }

    /// Waits until that many more reads are answered.
    pub async fn more_reads(&self, count: u64) {
        let target = self.ledger.summary().reads + count;
        eventually(&format!("{target} answered reads"), async || self.ledger.summary().reads >= target).await;
    }

    /// Stops the clients and compares the books with the table on `server`; panics on any difference.
    pub async fn judge(self, server: &Node) -> Ledger {
        self.tasks.stop();
        assert!(self.tasks.ended(LIMIT).await, "clients hang: {:?}", self.ledger.summary());
        let audit = self.ledger.audit(&mut server.sql_in("app").await.unwrap()).await.unwrap();
        assert!(audit.is_clean(), "{audit:?}; {:?}", self.ledger.summary());
        self.ledger
    }
}

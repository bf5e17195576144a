//! The PostgreSQL wire protocol, sans-IO: frames, the start of a connection, the messages we read and originate.

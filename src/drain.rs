//! Shutdown as a design: one token that says stop, one tracker that waits for every task.

//! The data plane's threads: one runtime each, with its own listeners and its own upstream
//! connections, so that no request ever crosses from one thread to another.

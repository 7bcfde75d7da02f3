"""Jobs on Ray: sources, the engine, and one module a job."""

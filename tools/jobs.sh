#!/bin/sh
# Prints how many jobs to run at once: one a core, and no more than one for every 2 GiB of available memory.
cores=$(nproc 2>/dev/null || echo 2)
memory=$(awk '/^MemAvailable:/ {print int($2 / 2097152)}' /proc/meminfo 2>/dev/null || echo "$cores")
[ "${memory:-0}" -ge 1 ] || memory=1
[ "$memory" -lt "$cores" ] && echo "$memory" || echo "$cores"

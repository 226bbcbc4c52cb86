"""Operations, time and throughput."""

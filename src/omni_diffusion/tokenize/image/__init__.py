"""Pictures to MAGVIT-v2 codes and back: 8,192 codes, one for every 16 by 16 pixels."""

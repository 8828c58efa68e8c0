"""Synthetic folders with the layouts of real corpora."""

import csv

from data_prep import corpora

EMOTALE_COLUMNS = [
  f'a{a}_{c}' for a in (1, 2, 3) for c in ('A', 'V', 'D', 'cat')
]


def touch(root, *names):
  """Parsers do not open the audio, so a few bytes will do."""
  for folder in {(root / name).parent for name in names}:
    folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (root / name).write_bytes(b'RIFF')


def emotale_table(root, changes=None):
  with open(root / 'annotations.csv', 'w', newline='', encoding='utf-8') as f:
    writer = csv.DictWriter(f, ['file', *EMOTALE_COLUMNS, 'gt_emotion'])
    writer.writeheader()
    for name in sorted(corpora.CORPORA['emotale'].expected):
      row = dict.fromkeys(EMOTALE_COLUMNS, '3.0') | {
        'file': f'{name}.wav',
        'gt_emotion': name[7],
      }
      writer.writerow(row | (changes or {}).get(name, {}))

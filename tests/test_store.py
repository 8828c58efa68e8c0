"""The store: TFDS reads it, it is whole or absent, and never stale."""

import csv
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent import futures

import numpy as np
import pytest
import soundfile

from data_prep import audio, build, corpora, features, records, store
from data_prep import manifest as manifest_lib

SPEC = dataclasses.replace(
  corpora.CORPORA['emodb'],
  **{'name': 'toy', 'title': 'A toy', 'citation': '@misc{toy, title={A toy}}'},
  **{'licence': 'CC0 1.0', 'homepage': 'https://example.org/toy'},
)
# Published order is not the alphabetical order of the ids.
IDS = ('b10', 'b2', 'z1', 'a1', 'c7', 'a0')
CLASSES = ('angry', 'happy', 'sad')


def make_manifest(root):
  """Six utterances of three classes, by two speakers, partly with VAD."""
  root.mkdir(parents=True, exist_ok=True)
  rows = []
  for number, name in enumerate(IDS):
    path = root / f'{name}.wav'
    rng = np.random.default_rng(number)
    waveform = 0.1 * number + rng.normal(0, 0.1, 3000 + 500 * number)
    soundfile.write(path, np.clip(waveform, -1, 1), 16000)
    label, speaker = CLASSES[number // 2], f's{number % 2}'
    about = name, path, label, speaker, 'female' if number % 2 else ''
    split = 'test' if number == 5 else 'train'
    vad = (1.5, 4.0, 7.0) if number else ()
    rows.append(manifest_lib.Utterance(*about, 'größer "so"', split, *vad))
  return manifest_lib.Manifest('toy', CLASSES, (1.0, 7.0), tuple(rows), root)


def with_rows(manifest, rows, **more):
  return dataclasses.replace(manifest, utterances=tuple(rows), **more)


@pytest.fixture
def manifest(tmp_path):
  return make_manifest(tmp_path / 'audio')


@pytest.fixture
def prepare(tmp_path, manifest):
  """Prepares the toy corpus below tmp_path/data."""

  def call(chosen=None, convention=None, **kwargs):
    kwargs = {'report': print, 'num_workers': 1, **kwargs}
    kwargs['features'] = convention or features.Librosa22k(6000)
    kwargs['data_dir'] = tmp_path / 'data'
    return store.prepare(chosen or manifest, SPEC, **kwargs)

  return call


def read_with_tfds(path):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(str(path))
  return builder.info, list(builder.as_dataset(split='all').as_numpy_iterator())


def info_of(path):
  return json.loads((path / 'store.json').read_text('utf-8'))


def rows_of(path):
  with open(path, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file, delimiter='\t'))


def shard_of(path):
  (shard,) = path.glob('*.tfrecord-*')
  return shard


def below(folder):
  """All names below a folder, hidden ones too."""
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def refused(message, function, *given, error=store.StoreError, **options):
  with pytest.raises(error, match=message) as caught:
    function(*given, **options)
  return str(caught.value)


def ids_of(examples):
  return [example['id'].decode() for example in examples]


def test_tfds_reads_it_back(prepare, manifest):
  import tensorflow as tf

  path = prepare()
  info, examples = read_with_tfds(path)
  assert info.full_name == f'toy/{path.parent.name}/1.0.0'
  about = 'A toy: librosa22k features of 6 utterances, in published order.'
  assert info.description == about
  assert info.citation == SPEC.citation
  assert info.redistribution_info.license == 'CC0 1.0'
  assert info.homepage == 'https://example.org/toy'
  assert info.supervised_keys == ('features', 'label')
  assert info.splits['utterances'].num_examples == 6
  assert info.features['label'].names == list(CLASSES)
  assert info.features['features'].shape == (None, 128)
  assert ids_of(examples) == list(IDS)
  for utterance, example in zip(manifest.utterances, examples, strict=True):
    expected = features.Librosa22k(6000)(*audio.read(utterance.path)[:2])
    np.testing.assert_array_equal(example['features'], expected)
    assert info.features['label'].int2str(example['label']) == utterance.label
    for name in ('speaker', 'gender', 'text', 'split'):
      assert example[name].decode() == getattr(utterance, name)
  np.testing.assert_array_equal(examples[0]['vad'], [np.nan] * 3)
  np.testing.assert_array_equal(examples[1]['vad'], [1.5, 4.0, 7.0])
  # The quicker way to write the features changes no byte of the meaning.
  records = tf.data.TFRecordDataset(str(shard_of(path))).as_numpy_iterator()
  parse = tf.train.Example.FromString
  for ours in list(records)[1:]:  # The first has NaN, which equals nothing.
    example = info.features.deserialize_example_np(ours)
    assert parse(ours) == parse(info.features.serialize_example(example))


def test_order_over_shards_and_processes(prepare, manifest, monkeypatch):
  monkeypatch.setattr(records, 'SHARD_BYTES', 10_000)
  copies = itertools.product((3, 1, 2), manifest.utterances)
  rows = [dataclasses.replace(u, id=f'{u.id}-{copy}') for copy, u in copies]
  many = with_rows(manifest, rows)
  path = prepare(many, num_workers=3)
  info, examples = read_with_tfds(path)
  shards = sorted(p.name for p in path.glob('*.tfrecord-*'))
  assert len(shards) == 9
  assert shards[8] == 'toy-utterances.tfrecord-00008-of-00009'
  assert info.splits['utterances'].shard_lengths == [2] * 9
  expected = [utterance.id for utterance in rows]
  assert ids_of(examples) == expected
  assert [row['id'] for row in rows_of(path / 'manifest.tsv')] == expected
  # However many processes: the same bytes.
  before = [(path / name).read_bytes() for name in shards]
  assert prepare(many, num_workers=1, overwrite=True) == path
  assert [(path / name).read_bytes() for name in shards] == before


def test_store_json_and_manifest(prepare, manifest):
  path = prepare()
  info, shard = info_of(path), shard_of(path)
  convention = features.Librosa22k(6000)
  seconds = sum(3000 + 500 * number for number in range(6)) / 16000
  assert info.pop('total_duration') == pytest.approx(seconds)
  written = info.pop('shards')[0]
  assert (written['name'], written['examples']) == (shard.name, 6)
  assert written['file_bytes'] == shard.stat().st_size
  expected = {'corpus': 'toy', 'audio_dir': str(manifest.root)}
  expected |= {'features': 'librosa22k', 'feature_version': features.VERSION}
  expected |= {'parameters': convention.parameters(), 'feature_bins': 128}
  expected |= {'frames_per_second': 22050 / 512, 'max_length': 12}
  expected |= {'fingerprint': path.parent.name.removeprefix('librosa22k-')}
  expected |= {'content': store.content_digest(manifest, convention)}
  expected |= {'classes': list(CLASSES), 'vad_range': [1.0, 7.0]}
  expected |= {'annotators': {}, 'count': 6, 'rejected': 0}
  assert info == {**expected, 'statistics': None, 'statistics_by_split': None}
  rows = rows_of(path / 'manifest.tsv')
  assert (rows[1]['path'], rows[1]['duration']) == ('b2.wav', '0.21875')
  assert (rows[0]['valence'], rows[1]['valence']) == ('', '1.5')

  assert not (path / 'rejected.tsv').exists()


def test_wave_statistics_are_those_of_all_samples(prepare, manifest):
  path = prepare(convention=features.Wave16k())
  info = info_of(path)
  waves = [audio.read(u.path).waveform.astype('d') for u in manifest.utterances]
  splits = info['statistics_by_split']
  for statistics, chosen in (
    (info['statistics'], waves),
    (splits['train'], waves[:5]),
    (splits['test'], waves[5:]),
  ):
    samples = np.concatenate(chosen)
    assert statistics['samples'] == len(samples)
    assert statistics['mean'] == pytest.approx(samples.mean(), rel=1e-12)
    assert statistics['std'] == pytest.approx(samples.std(), rel=1e-12)
  assert (info['feature_bins'], info['max_length']) == (None, 5500)
  _, examples = read_with_tfds(path)
  np.testing.assert_array_equal(examples[4]['features'], waves[4])


def test_a_corpus_without_classes(prepare, manifest):
  rows = (dataclasses.replace(u, label='') for u in manifest.utterances)
  _, examples = read_with_tfds(prepare(with_rows(manifest, rows, classes=())))
  assert [example['label'] for example in examples] == [-1] * 6


def test_whatever_changes_makes_another_store(prepare, manifest, tmp_path):
  quieter = features.Librosa22k(6000, range_db=60.0)
  others = features.Librosa22k(6001), quieter, features.Wave16k()
  paths = [prepare(), *(prepare(convention=other) for other in others)]
  first, *others = manifest.utterances
  for change in ({'label': 'sad'}, {'speaker': 's1'}, {'valence': 2.0}):
    changed = (dataclasses.replace(first, **change), *others)
    paths.append(prepare(with_rows(manifest, changed)))
  paths.append(prepare(with_rows(manifest, (*others, first))))
  # Another recording of the same length, written at the same moment.
  times = first.path.stat()
  samples, rate = soundfile.read(first.path, dtype='int16')
  soundfile.write(first.path, -samples // 2, rate)
  os.utime(first.path, ns=(times.st_atime_ns, times.st_mtime_ns))
  paths.append(prepare())
  assert len(set(paths)) == len(paths)
  opened = [(p, info_of(p)) for p in paths]
  found = [store._difference(opened[0], other) for other in opened]
  settings = ['signal_length (6000 / 6001)', 'range_db (80.0 / 60.0)']
  assert found[:3] == ['', *settings]
  assert found[4:] == [
    "the label of 1 utterances, like b10 ('angry' / 'sad')",
    "the speaker of 1 utterances, like b10 ('s0' / 's1')",
    "the valence of 1 utterances, like b10 ('' / '2.0')",
    'the order of their utterances',
    'the audio',
  ]
  with pytest.raises(store.StoreError, match='differs from the first in the '):
    store.find_store(tmp_path / 'data', 'toy', 'librosa22k', range_db=80.0)


def test_equal_content_is_one_store(prepare, manifest, tmp_path):
  path = prepare()
  before = {p: p.stat().st_mtime_ns for p in path.rglob('*')}
  os.utime(manifest.utterances[0].path, ns=(0, 0))
  lines = []
  assert prepare(report=lines.append) == path
  assert lines == [f'{path} is already prepared; nothing to do.']
  assert {p: p.stat().st_mtime_ns for p in path.rglob('*')} == before
  # A copy elsewhere, below another folder.
  other = tmp_path / 'else'
  shutil.copytree(manifest.root, other / 'where')
  rows = (
    dataclasses.replace(u, path=other / 'where' / u.path.name)
    for u in manifest.utterances
  )
  assert prepare(with_rows(manifest, rows, root=other)) == path


def test_overwrite_makes_it_again_and_removes_its_twins(
  prepare, manifest, tmp_path
):
  first = prepare()
  other = prepare(convention=features.Librosa22k(7000))
  with open(manifest.utterances[0].path, 'ab') as file:
    file.write(b'LIST\0\0\0\0')
  lines = []
  second = prepare(report=lines.append)
  assert second != first
  assert '--overwrite removes them' in lines[-1]
  assert str(first) in lines[-1]
  assert str(other) not in lines[-1]
  inode = second.stat().st_ino
  assert prepare(overwrite=True) == second
  assert second.stat().st_ino != inode
  names = {p.name for p in (tmp_path / 'data' / 'toy').iterdir()}
  assert names == {second.parent.name, other.parent.name}


def test_unusable_files_stop_it_or_are_listed(prepare, manifest, tmp_path):
  bad = manifest.utterances[2].path
  bad.write_bytes(bad.read_bytes()[:-10])
  stops = functools.partial(refused, error=audio.AudioError)
  for num_workers in (1, 2):
    message = f'{bad}: truncated; the header promises'
    said = stops(message, prepare, num_workers=num_workers)
    assert 'Nothing was written. --on_error=skip' in said
    assert below(tmp_path / 'data') == ['toy']
  rejected = manifest_lib.Rejected(pathlib.Path('x/\udcc9.wav'), 'its name')
  odd = manifest.utterances[3].path
  data = bytearray(odd.read_bytes())
  data[40:44] = (len(data)).to_bytes(4, 'little')
  odd.write_bytes(data)
  lines = []
  chosen = dataclasses.replace(manifest, rejected=(rejected,))
  path = prepare(chosen, on_error='skip', report=lines.append)
  name, truncated = rows_of(path / 'rejected.tsv')
  assert name == {'id': '', 'path': 'x/\\udcc9.wav', 'reason': 'its name'}
  assert (truncated['id'], truncated['path']) == ('z1', str(bad))
  assert 'truncated' in truncated['reason']
  assert f'2 files were left out; {path}/rejected.tsv lists them' in lines[1]
  assert f'1 files have a harmless fault:\n  {odd}: the header' in lines[2]
  info = info_of(path)
  assert (info['count'], info['rejected']) == (5, 2)
  assert info['classes'] == list(CLASSES)
  kept = ['b10', 'b2', 'a1', 'c7', 'a0']
  assert ids_of(read_with_tfds(path)[1]) == kept
  assert [row['id'] for row in rows_of(path / 'manifest.tsv')] == kept
  for utterance in manifest.utterances:
    utterance.path.write_bytes(b'')
  stops('none of the 6 files of toy is u', prepare, on_error='skip')
  bad.unlink()
  stops(r'z1\.wav: no such file', prepare)


def in_another_process(tmp_path, before, num_workers=1):
  """Prepares the toy corpus in a fresh Python, after some other statements."""
  code = f"""
import numpy, os, pathlib, sys
from data_prep import features, records, store
from tests import test_store
folder = pathlib.Path({str(tmp_path)!r})
manifest = test_store.make_manifest(folder / 'audio')
{textwrap.dedent(before)}
print(store.prepare(
  manifest, test_store.SPEC, features=features.Librosa22k(6000),
  data_dir=folder / 'data', num_workers={num_workers},
  report=lambda line: print(line, file=sys.stderr)))
# What takes long to import is not for those who only prepare.
for spec in features.Kaldi16k(), features.Wave16k():
  spec(numpy.ones(4000, 'f'), 8000)
heavy = {{'tensorflow', 'jax', 'librosa', 'numba', 'pooch', 'scipy'}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
  """
  root = pathlib.Path(__file__).parents[1]
  options = {'capture_output': True, 'text': True, 'timeout': 120}
  return subprocess.run([sys.executable, '-c', code], cwd=root, **options)


def test_killed_in_the_middle_leaves_nothing_and_starts_again(tmp_path):
  kill = """
  write = records.Writer.write
  def write_or_die(self, example):
    write(self, example)
    if example['id'] == 'a1':
      self._file.flush()
      os.kill(os.getpid(), 9)
  records.Writer.write = write_or_die
  """
  data = tmp_path / 'data'
  result = in_another_process(tmp_path, kill, num_workers=2)
  assert result.returncode == -9
  (left,) = data.glob('toy/.librosa22k-*.tmp/1.0.0/shard-0')
  assert left.stat().st_size > 10_000
  assert not list(data.glob('toy/[!.]*'))
  refused('There is none yet', store.find_store, data, 'toy', 'librosa22k')

  # The lock that it held went with it; so does what it left.
  result = in_another_process(tmp_path, '')
  assert result.returncode == 0, result.stderr
  path = pathlib.Path(result.stdout.strip())
  assert path == store.find_store(data, 'toy', 'librosa22k')
  assert [p.name for p in (data / 'toy').iterdir()] == [path.parent.name]
  assert len(read_with_tfds(path)[1]) == 6
  # No terminal: plain lines.
  assert '6/6 files, ' in result.stderr
  assert '\r' not in result.stderr


def test_a_full_disk_and_a_file_in_the_way_are_told(prepare, tmp_path):
  limit = """
  import resource
  # The limit of a file's size stands in for that of a disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
  """
  result = in_another_process(tmp_path, limit)
  assert result.returncode == 1
  assert 'StoreError: cannot write' in result.stderr
  assert 'File too large; nothing was left behind. Make room' in result.stderr
  assert below(tmp_path / 'data') == ['toy']
  shutil.rmtree(tmp_path / 'data')
  (tmp_path / 'data').write_text('a file')
  refused('toy: Not a directory; nothing', prepare)


def test_two_at_a_time_make_one(prepare, monkeypatch):
  builds, lines = [], []
  both = threading.Barrier(2, timeout=60)
  waiting = threading.Event()
  original = build.build

  def counted(*args, **kwargs):
    builds.append(1)
    # Until the other one has found the lock taken.
    assert waiting.wait(60)
    return original(*args, **kwargs)

  def report(line):
    lines.append(line)
    if line.startswith('waiting for another process'):
      waiting.set()

  def run(_):
    both.wait()
    prepare(report=report)

  monkeypatch.setattr(build, 'build', counted)
  with futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(run, range(2), timeout=60))
  assert len(builds) == 1
  assert sum('is already prepared' in line for line in lines) == 1


def test_a_damaged_store_is_told_and_made_again(prepare):
  path = prepare()
  for damage, message in (
    (lambda: (path / 'store.json').unlink(), 'it has no store.json'),
    (lambda: (path / 'store.json').write_text('{'), r'store\.json is damaged'),
    (lambda: (path / 'features.json').unlink(), 'it has no features.json'),
    (lambda: shard_of(path).unlink(), 'it has no toy-utterances'),
    (lambda: os.truncate(shard_of(path), 100), 'has 100 bytes and should have'),
    (lambda: shutil.rmtree(path), 'it has no store.json'),
  ):
    damage()
    assert 'Make it again with --overwrite' in refused(message, prepare)
    assert prepare(overwrite=True) == path
  assert len(read_with_tfds(path)[1]) == 6


def test_find_store(prepare, tmp_path):
  data = tmp_path / 'data'
  short, long = prepare(), prepare(convention=features.Librosa22k(7000))
  find = functools.partial(store.find_store, data)
  toy = ('toy', 'librosa22k')
  assert find(*toy, signal_length=6000) == short
  assert find(*toy, signal_length=7000, hop_length=512) == long
  said = refused('2 stores of toy have librosa22k', find, *toy)
  assert f'{short}  (librosa22k, signal_length=6000, 6 utter' in said
  message = 'no store of toy with .*=8000'
  said = refused(message, find, *toy, signal_length=8000)
  for text in (
    str(short),
    str(long),
    '`python -m data_prep --corpus=manifest --name=toy --manifest=FILE.tsv '
    f'--features=librosa22k --signal_length=8000 --data_dir={data}`',
  ):
    assert text in said
  message = 'There is none yet. Prepared there: toy'
  said = refused(message, find, 'ravdess', 'wave16k')
  assert '--corpus=ravdess --audio_dir=DIR --features=wave16k' in said
  (long / 'store.json').write_text('[]')
  refused(r'is damaged .*; delete', find, *toy, signal_length=6000)
  with pytest.raises(store.NotPreparedError) as error:
    store.find_store(tmp_path / 'a b', 'demo', 'kaldi16k')
  command = 'python -m data_prep --corpus=demo --features=kaldi16k'
  assert error.value.command == f"{command} '--data_dir={tmp_path}/a b'"

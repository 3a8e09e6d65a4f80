// `dropmesh history`, `dropmesh rollback`: what a chute was before, and how it becomes that again.
import type { Command } from 'commander'
import { equalBytes } from '../../protocols/bytes.js'
import { chuteSubject } from '../../protocols/chute.js'
import { open } from '../../protocols/envelope.js'
import { MeshError } from '../../protocols/error.js'
import { checkKind, isKind } from '../../protocols/kinds.js'
import { parseDuration } from '../duration.js'
import { historyOf, labelOf, type Revision, revisionToRestore } from '../history.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { ago, colour, print, printJson, printTable, say } from '../output.js'
import { signerFor } from '../sign.js'
import { publishSpec } from './publish.js'

export function addHistory(program: Command): void {
  const showing = program
    .command('history')
    .argument('<chute>', 'name, or publisher/name')
    .description('revisions of a chute, newest first, and the last change')
    .option('--diff', 'every change')
  forNode(showing, 'dropmesh history hello --diff').action(history)
  const rolling = program
    .command('rollback')
    .argument('<chute>', 'name, or publisher/name')
    .argument('[revision]', 'its number, or the beginning of its hash (default: the one before)')
    .description('publish an earlier revision of a chute again, and wait until it runs')
    .option('--key <key>', 'name, SSH key file, or agent, to sign with (default: the named key the chute belongs to)')
    .option('--detach', 'do not wait until it runs')
    .option('--wait <time>', 'how long to wait until it runs', '2m')
  forNode(rolling, 'dropmesh rollback hello 3').action(rollback)
}

async function history(chute: string, options: NodeOptions & { diff?: boolean }): Promise<void> {
  const revisions = await historyOf(clientOf(options), chute)
  if (options.json) return printJson(revisions.map(({ record: _, spec: __, ...row }) => row))
  printTable(
    ['REVISION', 'HASH', 'PUBLISHER', 'SIGNED', 'CHANGES', 'STATE'],
    revisions.map((row) => [
      String(row.revision),
      row.hash.slice(0, 12),
      row.publisher.slice(0, 12),
      ago(row.signed),
      countOf(row),
      stateOf(row, revisions),
    ]),
  )
  const shown = options.diff
    ? revisions
    : revisions.filter(({ state, before }) => state === 'in-force' && before !== null)
  for (const row of shown) {
    print('')
    if (row.diff === null) print(`${labelOf(row)} has little in common with the one before it`)
    else print(painted(row.diff.trimEnd()))
  }
}

function countOf({ before, added, removed }: Revision): string {
  if (before === null) return '-'
  if (added === null) return 'many'
  return added === 0 && removed === 0 ? 'none' : `+${added} -${removed}`
}

function stateOf({ state, signed, lostTo }: Revision, revisions: readonly Revision[]): string {
  if (state === 'in-force') return colour.green('in force')
  if (state === 'barred') return colour.yellow('may not be, see "dropmesh inspect"')
  if (state === 'future') return colour.yellow(`in force from ${signed}`)
  const winner = revisions.find(({ hash }) => hash === lostTo)
  return winner === undefined || state !== 'lost' ? 'superseded' : colour.yellow(`lost to ${labelOf(winner)}`)
}

const painted = (diff: string): string =>
  diff.replace(/^\+.*$/gm, (line) => colour.green(line)).replace(/^-.*$/gm, (line) => colour.red(line))

async function rollback(
  chute: string,
  asked: string | undefined,
  options: NodeOptions & { key?: string; detach?: boolean; wait: string },
): Promise<void> {
  const client = clientOf(options)
  const wait = parseDuration(options.wait, '--wait')
  const earlier = revisionToRestore(await historyOf(client, chute), asked)
  const signer = await signerFor(earlier.publisher, earlier.chute, options.key)
  // What is signed again must have been signed before: the local node only passes it on.
  const record = open(earlier.record.bytes, earlier.record.mesh)
  checkKind(record)
  if (!isKind(record, 'deployment') || !equalBytes(record.subject, chuteSubject(signer.publicKey, earlier.chute))) {
    throw new MeshError('not-your-chute', `${labelOf(earlier)} of ${earlier.chute} was not signed with your key`)
  }
  say(`rolling ${earlier.chute} back to ${labelOf(earlier)} of ${earlier.signed}`)
  const { spec } = record.body
  const isExclusive = spec.exclusive !== undefined
  await publishSpec(client, signer, earlier.chute, spec, isExclusive, wait, options, { restored: earlier.revision })
}

// How much of what its publisher is allowed each chute takes, and what is left over. A view over the chutes and the members.
import type { Standing } from './authority.js'
import { compareBytes, hex } from './bytes.js'
import type { Copy } from './chute.js'
import { type ChuteSpec, diskOf, resourcesOf } from './deployment.js'
import { type Chute, copiesOf } from './desired.js'
import { compareRecords } from './envelope.js'
import type { RecordOf } from './kinds.js'
import type { Ledger } from './ledger.js'
import type { Member } from './membership.js'
import { isSameList, remembered } from './view.js'

const CEILINGS = ['cpu', 'memory', 'disk', 'instances'] as const
type Amounts = Record<(typeof CEILINGS)[number], number>

/** What is taken of each grant, by hex of its hash. */
type Taken = Map<string, Amounts>

/** What one instance takes of a grant. */
export function amountsOf(spec: ChuteSpec): Amounts {
  const { cpu, memory } = resourcesOf(spec)
  return { cpu, memory, disk: diskOf(spec), instances: 1 }
}

/**
 * The chutes, each with what it may be of what it wants: on which APs, and how many copies. A chute counts against every
 * grant of the chain that allows it, so that no admin hands out more than it has. Who was granted first takes first, then the older
 * chute; where several chains allow a chute, it takes of the first one that has room for all of it.
 */
export function withinCeilings(
  ledger: Ledger,
  chutes: readonly Chute[],
  members: ReadonlyMap<string, Member>,
): readonly Chute[] {
  return remembered(ledger, 'ceilings', [chutes, members], () => {
    const all = limitAll(chutes, members)
    return isSameList(all, chutes) ? chutes : all
  })
}

/** In the order of `chutes`. */
export function limitAll(chutes: readonly Chute[], members: ReadonlyMap<string, Member>): Chute[] {
  const limited = new Map<Chute, Chute>()
  const taken: Taken = new Map()
  for (const chute of [...chutes].sort(inTurn)) limited.set(chute, limit(chute, members, taken))
  return chutes.map((chute) => limited.get(chute)!)
}

const grantOf = ({ standings }: Chute): RecordOf<'grant'> | undefined => standings?.[0]?.chain.at(-1)

function inTurn(a: Chute, b: Chute): number {
  const [one, other] = [grantOf(a), grantOf(b)]
  if (one === undefined || other === undefined) return Number(one !== undefined) - Number(other !== undefined)
  return compareRecords(one, other) || compareBytes(a.id.creation, b.id.creation) || compareBytes(a.key, b.key)
}

function limit(chute: Chute, members: ReadonlyMap<string, Member>, taken: Taken): Chute {
  const options = (chute.standings ?? []).map((standing) => {
    const there = onItsAps(chute, standing)
    return { standing, there, ...whatFits(there, standing, members, taken) }
  })
  const best = options.find(({ beyond }) => beyond === undefined) ?? options[0]
  if (best === undefined) return chute
  for (const _ of best.copies) take(best.there, best.standing, taken)
  if (best.beyond === undefined) return best.there
  const { copies, beyond } = best
  return { ...best.there, limit: { copies, why: beyond } }
}

/** The chute with the labels that its publisher's grants ask for beside its own. */
function onItsAps(chute: Chute, { chain }: Standing): Chute {
  const labels = chain.flatMap(({ body }) => Object.entries(body.scope?.labels ?? {}))
  const constraints = labels.map(([label, value]) => ({ label, value }))
  if (constraints.length === 0) return chute
  return { ...chute, spec: { ...chute.spec, constraints: [...chute.spec.constraints, ...constraints] } }
}

function whatFits(
  chute: Chute,
  { chain }: Standing,
  members: ReadonlyMap<string, Member>,
  taken: Taken,
): { copies: Copy[]; beyond: string | undefined } {
  const one = amountsOf(chute.spec)
  const copies: Copy[] = []
  for (const copy of copiesOf(chute, membersThatFit(chute, members))) {
    for (const { hash, body } of chain) {
      for (const what of CEILINGS) {
        const ceiling = body.scope?.[what]
        if (ceiling === undefined) continue
        const left = ceiling - (taken.get(hex(hash))?.[what] ?? 0) - copies.length * one[what]
        if (one[what] > left) return { copies, beyond: inWords(what, one[what], Math.max(0, left), ceiling) }
      }
    }
    copies.push(copy)
  }
  return { copies, beyond: undefined }
}

/** A copy for an AP that it can never run on takes nothing from anyone. */
export const membersThatFit = ({ spec }: Chute, members: ReadonlyMap<string, Member>): ReadonlyMap<string, Member> =>
  spec.replicas === 'everywhere'
    ? new Map(
        [...members]
          .filter(([, { labels }]) => spec.constraints.every(({ label, value }) => labels[label] === value))
          .sort(([a], [b]) => (a < b ? -1 : 1)),
      )
    : members

function take(chute: Chute, { chain }: Standing, taken: Taken): void {
  const one = amountsOf(chute.spec)
  for (const { hash } of chain) {
    const sum = { ...(taken.get(hex(hash)) ?? { cpu: 0, memory: 0, disk: 0, instances: 0 }) }
    for (const what of CEILINGS) sum[what] += one[what]
    taken.set(hex(hash), sum)
  }
}

function inWords(what: keyof Amounts, needs: number, left: number, ceiling: number): string {
  if (what === 'cpu') return `needs ${needs / 1000} CPUs, ${left / 1000} of the ${ceiling / 1000} granted are left`
  if (what === 'instances') return `the ${ceiling} instances granted run already`
  const mib = (bytes: number) => Math.floor(bytes / 1024 ** 2)
  return `needs ${mib(needs)} MiB of ${what}, ${mib(left)} of the ${mib(ceiling)} granted are left`
}

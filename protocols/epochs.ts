// Which epochs there can be by now. An epoch counts how often an instance was claimed, and nobody can have claimed it more often than
// once a millisecond: so one whose number is absurd counts for nothing, and the next AP always has a higher one to claim by.
// A view over claims that knows no more of a claim than what it says.
import { apId, hex } from './bytes.js'
import { chuteOfInstance, creationTime } from './chute.js'
import type { Clock } from './clock.js'
import type { Chute, Claims } from './desired.js'
import type { RecordOf } from './kinds.js'
import type { Membership } from './membership.js'
import type { Electorate } from './voters.js'

/**
 * Epochs of a generation of voters begin beyond those of the one before, so that none is used twice although new voters do
 * not know which ones the old ones gave. One a millisecond fills a generation in 34 years.
 */
const EPOCHS_PER_GENERATION = 2 ** 40

/** No epoch of a generation is as low as this. */
export const beginOf = (generation: number): number => generation * EPOCHS_PER_GENERATION

/** Beyond all epochs of a generation: who claims one of these to keep others out keeps out none after a change of voters. */
export const endOf = (generation: number): number => beginOf(generation + 1)

/** The highest epoch that there can be of a chute `ms` after it was created. */
export const highestAfter = (generation: number, ms: number): number =>
  Math.min(endOf(generation) - 1, beginOf(generation) + 1 + Math.max(0, ms))

/** The first clock by which an epoch can be claimed. */
export const firstClock = (creation: Uint8Array, epoch: number): Clock => [
  creationTime(creation) + Math.max(0, (epoch % EPOCHS_PER_GENERATION) - 1),
  0,
]

/**
 * The claims that count: by APs that are members, or were, and with epochs that the generations of the chute's voters so far can have come
 * to by then.
 */
export function possibleClaims(
  claims: Claims,
  chutes: readonly Chute[],
  electorates: ReadonlyMap<string, Pick<Electorate, 'generation'>>,
  { members, forgotten }: Pick<Membership, 'members' | 'forgotten'>,
): Claims {
  const byKey = new Map(chutes.map((chute) => [hex(chute.key), chute]))
  const found = new Map<string, readonly RecordOf<'claim'>[] | undefined>()
  const find = (instance: string) => {
    const key = chuteOfInstance(instance)
    const chute = byKey.get(key)
    const last = electorates.get(key)?.generation ?? 0
    const possible = claims.get(instance)?.filter(({ signer, clock, body }) => {
      const generation = Math.floor(body.epoch / EPOCHS_PER_GENERATION)
      const age = chute === undefined ? 0 : clock[0] - creationTime(chute.id.creation)
      const ap = apId(signer)
      return (members.has(ap) || forgotten.has(ap)) && generation <= last && body.epoch <= highestAfter(generation, age)
    })
    return possible?.length ? possible : undefined
  }
  return {
    get(instance) {
      if (!found.has(instance)) found.set(instance, find(instance))
      return found.get(instance)
    },
  }
}

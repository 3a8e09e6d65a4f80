// What a chute was before: the revisions of it that are kept, and which of them lost a conflict. A view over one register
// of deployments; that two of them conflict is written nowhere.
import { equalBytes } from './bytes.js'
import type { RecordOf } from './kinds.js'
import { isDue } from './ledger.js'

type Deployment = RecordOf<'deployment'>

/** `future`: its time has not come; `barred`: its publisher may not have it; `lost`: something that was published without knowing of it counts in its place. */
export type RevisionState = 'future' | 'barred' | 'in-force' | 'superseded' | 'lost'

export interface Revision {
  readonly deployment: Deployment
  readonly state: RevisionState
  /** The revision that won over it: the earliest one in the order of the register. */
  readonly lostTo: Deployment | undefined
  /** What it changed: the newest one before it with a lower number. Undefined where none is kept. */
  readonly before: Deployment | undefined
}

/**
 * The revisions of a chute.
 * @param history its register of deployments, newest first; returned in the same order
 * @param isAllowed false for what its publisher may not have
 */
export function revisionsOf(
  history: readonly Deployment[],
  nowMs: number,
  isAllowed: (deployment: Deployment) => boolean = () => true,
): Revision[] {
  const canCount = (deployment: Deployment) => isDue(deployment, nowMs) && isAllowed(deployment)
  const inForce = history.find(canCount)
  return history.map((deployment, at) => {
    const lostTo = history.slice(0, at).findLast((later) => canCount(later) && isUnawareOf(later, deployment))
    const state: RevisionState = !isDue(deployment, nowMs)
      ? 'future'
      : !isAllowed(deployment)
        ? 'barred'
        : deployment === inForce
          ? 'in-force'
          : lostTo === undefined
            ? 'superseded'
            : 'lost'
    return { deployment, state, lostTo, before: history.slice(at + 1).find((earlier) => isBefore(earlier, deployment)) }
  })
}

// Who publishes knowing of a revision gives the next one a higher number, within the same creation. So one that comes
// later in the order and does not was signed on another side of a partition, or at the same time.
const isUnawareOf = (later: Deployment, earlier: Deployment): boolean =>
  !isSameCreation(later, earlier) || later.body.revision <= earlier.body.revision

const isBefore = (earlier: Deployment, deployment: Deployment): boolean =>
  isSameCreation(earlier, deployment) && earlier.body.revision < deployment.body.revision

const isSameCreation = (a: Deployment, b: Deployment): boolean => equalBytes(a.body.creation, b.body.creation)

/**
 * The conflicts that came into a register with some of its records. Whoever asks at each batch of records hears of each
 * loser once, in whatever order they come.
 */
export function newConflicts(
  history: readonly Deployment[],
  isNew: (deployment: Deployment) => boolean,
  nowMs: number,
): { winner: Deployment; loser: Deployment }[] {
  const lostIn = (some: readonly Deployment[]) => revisionsOf(some, nowMs).filter(({ state }) => state === 'lost')
  const known = new Set(lostIn(history.filter((deployment) => !isNew(deployment))).map(({ deployment }) => deployment))
  return lostIn(history)
    .filter(({ deployment }) => !known.has(deployment))
    .map(({ deployment, lostTo }) => ({ winner: lostTo!, loser: deployment }))
}

// Whom the secrets of a chute are for, and who seals them to an AP that lacks one: an AP that was given them, since no publisher is
// there when an AP dies. It happens ahead of time, to all that may run the chute, and not when placement needs one: who held
// the instance is dead by then.
import { concat, equalBytes, hex } from './bytes.js'
import type { Chute } from './desired.js'
import type { RecordOf } from './kinds.js'
import { MAX_SEALED } from './limits.js'
import type { Member } from './membership.js'
import type { Outlook } from './outlook.js'
import { score } from './rendezvous.js'
import type { Secret } from './secrets.js'

type View = Pick<Outlook, 'chutes' | 'candidates'>

/**
 * The APs that a chute's secrets are for: members with the labels, all of them where a record has room. Of a bigger mesh those with
 * the best scores, which are many more than run it; on the others it is not placed. What runs on every AP is for every AP.
 */
export function recipientsOf({ candidates }: Pick<Outlook, 'candidates'>, { spec, key }: Chute): Member[] {
  const isMeant = ({ labels }: Member) => spec.constraints.every(({ label, value }) => labels[label] === value)
  const all = [...candidates.values()].flatMap(({ member }) => (isMeant(member) ? [member] : []))
  const most = spec.replicas === 'everywhere' ? all.length : Math.max(MAX_SEALED, 2 * spec.replicas)
  if (all.length <= most) return all
  return all
    .map((member) => ({ member, score: score('recipient 1', key, member.key, 1) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, most)
    .map(({ member }) => member)
}

/** So long it is one AP's turn to seal to another, in milliseconds of the mesh's time. Then it is the next one's. */
const TURN = 10_000

export interface ShareToMake {
  readonly chute: Chute
  readonly to: Member
  /** Records of all secrets that the AP is to be given: a share takes the place of the one before. */
  readonly secrets: readonly RecordOf<'secret'>[]
}

/**
 * What an AP seals to others now: of those that were given a secret and are alive, the first by score, another one in each turn, so
 * that one that does not do it keeps nobody waiting for long. Two that disagree about the time both do it, and no harm comes of it.
 * @param self AP id
 */
export function sharesToMake(view: View, self: string, nowMs: number): ShareToMake[] {
  const own = view.candidates.get(self)
  if (own === undefined) return []
  const ownKey = hex(own.member.key)
  const turn = new Uint8Array(8)
  new DataView(turn.buffer).setBigUint64(0, BigInt(Math.floor(nowMs / TURN)))
  return view.chutes.flatMap((chute) => {
    const mine = (chute.secrets ?? []).filter(({ record, givenTo }) => record !== undefined && givenTo.has(ownKey))
    if (mine.length === 0) return []
    return recipientsOf(view, chute).flatMap((to) => {
      const key = hex(to.key)
      if (to.id === self || view.candidates.get(to.id)!.state !== 'alive') return []
      const isMyTurn = ({ givenTo }: Secret) => {
        const givers = [...view.candidates].filter(
          ([id, { state, member }]) => (id === self || state === 'alive') && givenTo.has(hex(member.key)),
        )
        const subject = concat(chute.key, to.key, turn)
        const best = givers
          .map(([id, { member }]) => ({ id, score: score('share 1', subject, member.key, 1) }))
          .reduce((a, b) => (b.score > a.score ? b : a))
        return best.id === self
      }
      if (!mine.some((secret) => !secret.givenTo.has(key) && isMyTurn(secret))) return []
      const isSealedByPublisher = ({ record }: Secret) =>
        record!.body.sealed!.keys.some(({ ap }) => equalBytes(ap, to.key))
      return { chute, to, secrets: mine.filter((one) => !isSealedByPublisher(one)).map(({ record }) => record!) }
    })
  })
}

// How an AP runs what it holds: what the reconciler is asked for, made of a placement.
import { apId, hex } from '../../protocols/bytes.js'
import { instanceName } from '../../protocols/desired.js'
import type { Outlook } from '../../protocols/outlook.js'
import type { Placed } from '../../protocols/placement.js'
import { secretsDigest } from '../../protocols/secrets.js'
import { type Desired, generationOf } from './reconciler.js'

/** @param placed what the AP `self` holds */
export function desiredOf(placed: Placed, outlook: Outlook, self: string): Desired {
  const { chute, subject, instance, copy } = placed
  const epoch = placed.claim!.body.epoch
  const name = instanceName(chute.id.name, copy, (key) => outlook.candidates.get(apId(key))?.member.name ?? apId(key))
  return {
    subject,
    epoch,
    revision: chute.revision,
    plan: {
      key: instance,
      instance: name,
      chute: chute.id.name,
      chuteKey: hex(chute.key),
      revision: String(chute.revision),
      epoch: String(epoch),
      generation: generationOf(chute.deployment.hash, epoch, chute.restarts, secretsDigest(chute)),
      spec: chute.spec,
      environment: {
        DROPMESH_CHUTE: chute.id.name,
        DROPMESH_INSTANCE: name,
        DROPMESH_AP: self,
        DROPMESH_EPOCH: String(epoch),
        // What ParaDrop's chutes look for.
        PARADROP_CHUTE_NAME: chute.id.name,
        PARADROP_CHUTE_VERSION: String(chute.revision),
        PARADROP_ROUTER_ID: self,
        PARADROP_DATA_DIR: '/data',
      },
    },
  }
}

// All decoders of what came from outside: from the network, from a disk, from a person's files. Each is fed with mutants, and must answer
// to any of it with a value or a MeshError.

import { api } from './decoders/api.js'
import type { Decoder } from './decoders/decoder.js'
import { catalogue, files, store } from './decoders/disk.js'
import { images, layer, ociManifest, ociWords, packageDescriptor } from './decoders/packages.js'
import {
  cbor,
  chunks,
  datagram,
  envelope,
  frames,
  ids,
  kinds,
  payload,
  stream,
  ticket,
  ticketContent,
} from './decoders/peers.js'
import { keyFile, sources, sshAgent, sshFile, sshKey, sshPublic } from './decoders/people.js'
import { env, gitUrl, manifest, paradrop } from './decoders/texts.js'

export const DECODERS: readonly Decoder[] = [
  ...[cbor, envelope, payload, ...kinds, ...frames, datagram, stream, ticket, ticketContent, ids, chunks, env],
  ...[
    manifest,
    gitUrl,
    paradrop,
    packageDescriptor,
    layer,
    images,
    ociManifest,
    ociWords,
    catalogue,
    ...files,
    store,
    api,
  ],
  ...[sources, keyFile, { ...sshFile, name: 'ssh-file' }, sshKey, sshPublic, sshAgent],
]

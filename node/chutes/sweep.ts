// Removes what a whole mesh, or one AP, left on an engine: for the demo and for tests, whose APs do not get to clean up.
import type Docker from 'dockerode'

/** Kills every running container with this label, as a power cut does. */
export async function killLabelled(docker: Docker, label: string): Promise<void> {
  const containers = await docker.listContainers({ filters: { label: [label] } })
  await Promise.all(
    containers.map(({ Id }) =>
      docker
        .getContainer(Id)
        .kill()
        .catch(() => {}),
    ),
  )
}

/** Removes every container, network and volume with this label. */
export async function removeLabelled(docker: Docker, label: string): Promise<void> {
  const filters = { label: [label] }
  const containers = await docker.listContainers({ all: true, filters })
  await Promise.all(
    containers.map(({ Id }) =>
      docker
        .getContainer(Id)
        .remove({ force: true, v: true })
        .catch(() => {}),
    ),
  )
  const networks = await docker.listNetworks({ filters })
  await Promise.all(
    networks.map(({ Id }) =>
      docker
        .getNetwork(Id)
        .remove()
        .catch(() => {}),
    ),
  )
  const { Volumes } = await docker.listVolumes({ filters })
  await Promise.all(
    (Volumes ?? []).map(({ Name }) =>
      docker
        .getVolume(Name)
        .remove()
        .catch(() => {}),
    ),
  )
}

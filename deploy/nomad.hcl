# One scheduler as a Nomad job. Its variables are held against the program's flags
# by scripts/test-deploy.sh; not parsed by Nomad and not run.
#
#   nomad var put nomad/jobs/c4a api_token="$(openssl rand -hex 32)" daemon_token="$(openssl rand -hex 32)"
#   nomad job run nomad.hcl
job "c4a" {
  type = "service"

  group "scheduler" {
    count = 1

    # Kept over an update and taken along to another node where that is possible.
    ephemeral_disk {
      size    = 20000
      sticky  = true
      migrate = true
    }

    network {
      port "http" {
        to = 5110
      }
    }

    task "scheduler" {
      driver = "docker"
      user   = "65532:65532"

      config {
        image           = "ghcr.io/context4ai/c4a-daemon:latest"
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        C4A_WORKSPACE  = "${NOMAD_ALLOC_DIR}/data/c4a"
        C4A_ALLOW_HOST = "c4a.service.consul"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/tokens.env"
        env         = true
        data        = <<-END
          {{ with nomadVar "nomad/jobs/c4a" }}
          C4A_API_TOKEN={{ .api_token }}
          C4A_DAEMON_TOKEN={{ .daemon_token }}
          {{ end }}
        END
      }

      service {
        name     = "c4a"
        port     = "http"
        provider = "nomad"

        check {
          type     = "http"
          path     = "/readyz"
          interval = "10s"
          timeout  = "3s"
        }
      }

      resources {
        cpu    = 500
        memory = 512
      }

      kill_timeout = "30s"
    }
  }
}
